// What the benchmarks need of Linux and Swift cannot express: variadic system calls and macros.
#ifndef CBENCH_H
#define CBENCH_H

#include <stdint.h>
#include <sys/types.h>

/// A descriptor that becomes readable when the child has ended; -1 with errno.
int bench_pidfd_open(pid_t pid);
/// CPU time that a process has used since it began, in nanoseconds; -1 with errno.
int64_t bench_process_cpu(pid_t pid);
/// Reads every byte at the start of a page of a mapping; the result keeps the compiler from leaving it out.
uint64_t bench_touch(const void *mapping, size_t size, size_t page);

#endif
