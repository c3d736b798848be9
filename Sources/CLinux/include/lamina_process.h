// What is needed to start a server in the background and Swift's Glibc module lacks, because it is built without _GNU_SOURCE.
#ifndef LAMINA_PROCESS_H
#define LAMINA_PROCESS_H

#include <stddef.h>
#include <stdint.h>

/// open(2)'s O_PATH: a descriptor that only stands for a place in the tree.
extern const int32_t lamina_o_path;
extern const int32_t lamina_o_direct;

/// pipe2(2) with O_CLOEXEC: 0, or -1 with errno.
int lamina_pipe(int32_t ends[2]);

/// Starts `program` in its own session, in `/`, with standard input from /dev/null, standard output and error to `output`, and
/// `ready` as descriptor `ready_as`; signals that this process ignores or catches are reset to their defaults. 0 and the
/// process, or an errno value.
int lamina_spawn_session(
    const char *program, char *const arguments[], int32_t output, int32_t ready, int32_t ready_as, int32_t *process);

/// An unnamed file in memory that no program started later inherits (memfd_create(2)). -1 with errno.
int lamina_memory_file(const char *name);

// What the protocol of sd_notify(3) and sd_listen_fds(3) needs.

/// Sends a datagram to the unix socket `name` (a path, or abstract with a leading @) with up to 16 descriptors. 0, or -1
/// with errno.
int lamina_notify_send(
    const char *name, size_t name_length, const char *text, size_t size, const int32_t *descriptors, int32_t count);

/// A datagram socket at `path` that receives such messages and who sent them. -1 with errno: EADDRINUSE, ENAMETOOLONG.
int lamina_notify_socket(const char *path, size_t path_length);

/// Whether a process receives at the datagram socket `path`: 1; 0: none any more, or there is no socket; -1 with errno.
int lamina_notify_answers(const char *path, size_t path_length);

/// Takes a message: its size, -1 with errno (EAGAIN: there is none). `count` is the room in `descriptors`, then how many came;
/// they are not inherited. `process` is the sender's, 0 if the kernel did not say.
int64_t lamina_notify_receive(
    int socket, char *text, size_t size, int32_t *descriptors, int32_t *count, int32_t *process);

/// Starts a program as systemd starts services: `descriptors` become 3 and up, and LISTEN_PID is its process ID. All others are
/// closed, except 0 to 2 and `kept` (-1: none). If there are descriptors, `environment` needs an entry "LISTEN_PID=" with room
/// for ten digits. For a process of one thread. The process ID, or -1 with errno.
int32_t lamina_start_listening(
    const char *program, char *const arguments[], char *const environment[], const int32_t *descriptors, int32_t count,
    int32_t kept);

/// Blocks the signals and gives a descriptor that reports them (signalfd(2)), or -1.
int lamina_signal_descriptor(const int32_t *signals, int32_t count);
/// The next signal that it reports; 0 if there is none, -1 with errno.
int32_t lamina_next_signal(int descriptor);

/// mount(2) by a separate process, with the working directory `base`. 0, or -1 with errno. If this process is killed meanwhile,
/// nothing stays mounted.
int lamina_mount_apart(
    const char *base, const char *source, const char *target, const char *type, unsigned long flags, const char *data);

/// Starts a process that looks `path` up (lstat) each time it reads a byte from `commands`, and writes one to `answers`: 0, or
/// the errno value. It ends when `commands` does. It shares nothing with this process except a copy of its memory. The process
/// ID, or -1 with errno.
int32_t lamina_start_prober(const char *path, int32_t commands, int32_t answers);

// What a process finds when it is started.

/// Opens /dev/null as each of descriptors 0 to 2 that is closed: otherwise the next opened file would take its place, and code
/// that means the terminal would write to it. 0, or -1 with errno.
int lamina_occupy_standard_descriptors(void);

/// Raises the soft limit of a resource to the hard one, and the hard one to `wanted` if it is lower and this process may. 0, or
/// -1 with errno.
int lamina_raise_limit(int32_t resource, uint64_t wanted);
extern const int32_t lamina_rlimit_files;
extern const int32_t lamina_rlimit_file_size;
extern const int32_t lamina_rlimit_address_space;
extern const int32_t lamina_rlimit_data;

/// Writes out what standard output still holds. 0, or the errno value of what failed, now or before.
int32_t lamina_flush_output(void);

#endif
