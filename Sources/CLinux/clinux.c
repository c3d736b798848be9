#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "clinux.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int lamina_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data) {
    return mount(source, target, type, flags, data);
}

int lamina_umount(const char *target, int flags) { return umount2(target, flags); }

int lamina_copy_range(int from, int64_t from_offset, int to, int64_t to_offset, size_t count) {
    struct file_clone_range range = {.src_fd = from,
                                     .src_offset = (uint64_t)from_offset,
                                     .src_length = count,
                                     .dest_offset = (uint64_t)to_offset};
    // A clone needs offsets on block boundaries; otherwise the kernel says EINVAL, and a copy does it.
    if (ioctl(to, FICLONERANGE, &range) == 0) return 0;
    off_t source = from_offset, target = to_offset;
    while (count > 0) {
        ssize_t copied = copy_file_range(from, &source, to, &target, count, 0);
        if (copied < 0) {
            if (errno == EINTR) continue;
            return -1;
        }
        if (copied == 0) {
            errno = EIO;
            return -1;
        }
        count -= (size_t)copied;
    }
    return 0;
}

int lamina_supports_clone(int directory) {
    int a = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (a < 0) return -1;
    int b = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (b < 0) {
        close(a);
        return -1;
    }
    int result = -1;
    if (ftruncate(a, 4096) == 0) result = ioctl(b, FICLONE, a) == 0;
    int error = errno;
    close(a);
    close(b);
    errno = error;
    return result;
}

int64_t lamina_first_hole(int fd) {
    off_t hole = lseek(fd, 0, SEEK_HOLE);
    // ENXIO: offset 0 is the end; the file is empty.
    if (hole < 0 && errno == ENXIO) return 0;
    return hole;
}

int64_t lamina_next_hole(int fd, int64_t from) { return lseek(fd, from, SEEK_HOLE); }

int64_t lamina_next_data(int fd, int64_t from) { return lseek(fd, from, SEEK_DATA); }

int64_t lamina_hole_bytes(int fd) {
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0) return -1;
    int64_t sum = 0;
    off_t position = 0;
    while (position < size) {
        off_t hole = lseek(fd, position, SEEK_HOLE);
        if (hole < 0) return -1;
        if (hole >= size) break;
        off_t data = lseek(fd, hole, SEEK_DATA);
        // ENXIO: no data follows, the hole reaches to the end.
        if (data < 0 && errno != ENXIO) return -1;
        if (data < 0 || data > size) data = size;
        sum += data - hole;
        position = data;
    }
    return sum;
}

int lamina_punch_hole(int fd, int64_t offset, int64_t count) {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count);
}

/// 1: the flag is new, 0: it was there, -1 with errno.
static int add_flag(int fd, int flag) {
    int flags = 0;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) return -1;
    if (flags & flag) return 0;
    flags |= flag;
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0 ? 1 : -1;
}

int lamina_leave_no_access_times(int fd) { return add_flag(fd, FS_NOATIME_FL); }

int lamina_spread_directories(int fd) { return add_flag(fd, FS_TOPDIR_FL); }

int lamina_syncfs(int fd) { return syncfs(fd); }

int lamina_set_thread_name(const char *name) { return pthread_setname_np(pthread_self(), name); }

int lamina_has_capability(int capability) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0) return -1;
    return (data[capability / 32].effective >> (capability % 32)) & 1;
}

long lamina_filesystem_type(const char *path) {
    struct statfs buffer;
    if (statfs(path, &buffer) != 0) return -1;
    return (long)buffer.f_type;
}

int lamina_exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

void lamina_trim_heap(void) { malloc_trim(0); }

void lamina_tune_heap(int arenas) {
    mallopt(M_ARENA_MAX, arenas);
    // Fixed, because otherwise it would grow with the first large buffer that is freed: from then on large and small blocks
    // would be in the same heaps, which grow to hundreds of megabytes because each small block keeps a gap from being used.
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
}

int lamina_try_write_lock(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
    return fcntl(fd, F_OFD_SETLK, &lock);
}
