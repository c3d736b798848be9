// What starting a server in the background takes and Swift's Glibc module lacks, as it sees no _GNU_SOURCE.
#ifndef LAMINA_PROCESS_H
#define LAMINA_PROCESS_H

#include <stdint.h>

/// open(2)'s O_PATH: a descriptor that only stands for a place in the tree.
extern const int32_t lamina_o_path;
extern const int32_t lamina_o_direct;

/// pipe2(2) with O_CLOEXEC: 0, or -1 with errno.
int lamina_pipe(int32_t ends[2]);

/// Starts `program` in a session of its own, in `/`, with standard input from /dev/null, standard output and error to `output`, and
/// `ready` as descriptor `ready_as`; signals that this process ignores or catches are at their defaults there. 0 and the
/// process, or an errno value.
int lamina_spawn_session(
    const char *program, char *const arguments[], int32_t output, int32_t ready, int32_t ready_as, int32_t *process);

#endif
