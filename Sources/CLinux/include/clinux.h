// System calls and constants that Swift's Glibc module does not carry, or only as macros it cannot import.
#ifndef LAMINA_CLINUX_H
#define LAMINA_CLINUX_H

// No <sys/types.h> here: Swift would see a second mode_t and off_t beside Glibc's.
#include <stddef.h>
#include <stdint.h>

int lamina_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int lamina_umount(const char *target, int flags);

#define LAMINA_MS_RDONLY 1UL
#define LAMINA_MS_NOSUID 2UL
#define LAMINA_MS_NODEV 4UL
#define LAMINA_MS_REMOUNT 32UL
#define LAMINA_MS_NOATIME 1024UL
#define LAMINA_MS_BIND 4096UL
#define LAMINA_MNT_DETACH 2

/// Gives a file a free loop device, read-only, which is freed when it is neither open nor mounted any more.
///
/// \param device gets its path.
/// \returns its descriptor, to be kept until it is mounted; -1 with errno. Linux 5.8 and newer.
int lamina_attach_loop(int file, char *device, size_t size);

/// Clones a range of `from` into `to` if the file system shares blocks, otherwise copies it in the kernel. 0, or -1 with errno;
/// a short copy is continued.
int lamina_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t count);

/// Whether files of the directory's file system can share blocks (FICLONE): 1, 0, or -1 with errno.
int lamina_supports_clone(int directory);

/// The first byte of the file without data (SEEK_HOLE); the size if there is none; -1 with errno.
int64_t lamina_first_hole(int fd);

/// The first byte from `from` on without data, or with data; -1 with errno: ENXIO if there is none.
int64_t lamina_next_hole(int fd, int64_t from);
int64_t lamina_next_data(int fd, int64_t from);

/// How many bytes of the file have no data (SEEK_HOLE, SEEK_DATA); -1 with errno.
int64_t lamina_hole_bytes(int fd);

/// Frees the blocks behind a range without changing the size (FALLOC_FL_PUNCH_HOLE).
int lamina_punch_hole(int fd, int64_t offset, int64_t count);

/// Gives a file or directory the attribute that reading sets no access time (chattr +A); what is made in such a directory
/// inherits it if the file system supports that. 1: it has the attribute now, 0: it had it before, -1 with errno.
int lamina_leave_no_access_times(int fd);

/// Has ext4 put the directories that are made in this one far from each other (chattr +T). Returns the same as the one before.
int lamina_spread_directories(int fd);

/// Locks a whole file for writing, for its open file description (F_OFD_SETLK): against that, and against the locks of whole processes
/// (F_SETLK), which others take. 0, or -1 with errno: EAGAIN where somebody has it. It ends with the descriptor.
int lamina_try_write_lock(int fd);

/// syncfs(2), which glibc declares for _GNU_SOURCE only.
int lamina_syncfs(int fd);

int lamina_set_thread_name(const char *name);

/// Whether a capability is in the effective set of this thread: 1, 0, or -1 with errno.
int lamina_has_capability(int capability);
#define LAMINA_CAP_SYS_ADMIN 21

/// f_type of statfs(2), or -1.
long lamina_filesystem_type(const char *path);

/// WIFEXITED and similar are macros.
int lamina_exit_status(int status);

/// Gives a freed heap back to the kernel (malloc_trim), and keeps arenas few.
void lamina_trim_heap(void);
void lamina_tune_heap(int arenas);

#endif
