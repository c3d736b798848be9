#define _GNU_SOURCE
#include "cbench.h"

#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int bench_pidfd_open(pid_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }

int64_t bench_process_cpu(pid_t pid) {
    clockid_t clock;
    struct timespec now;
    int error = clock_getcpuclockid(pid, &clock);
    if (error != 0) {
        errno = error;
        return -1;
    }
    if (clock_gettime(clock, &now) != 0) return -1;
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

uint64_t bench_touch(const void *mapping, size_t size, size_t page) {
    const volatile unsigned char *bytes = mapping;
    uint64_t sum = 0;
    for (size_t at = 0; at < size; at += page) sum += bytes[at];
    return sum;
}
