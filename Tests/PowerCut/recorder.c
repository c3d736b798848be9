// recorder: serves a disk image as a file, and notes what a disk with a volatile cache would see.
//
//   recorder IMAGE DIRECTORY MOUNTPOINT
//
// MOUNTPOINT/disk has the bytes of IMAGE; a loop device stands on it. What is written to MOUNTPOINT/mark is a moment that the test
// wants to find again. In DIRECTORY, `bytes` takes what was written, one piece after the other, and `records` an entry of 32 bytes
// for each write, flush and mark, in the order in which they came. lab/disk.py reads them.
//
// Ends when MOUNTPOINT is unmounted.
#define FUSE_USE_VERSION 35
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum kind { WRITE = 'W', FLUSH = 'F', MARK = 'M' };
enum { ROOT = FUSE_ROOT_ID, DISK, MARKS };

// As lab/disk.py unpacks it: "<IIQQQ".
struct record {
    uint32_t kind, length;
    uint64_t offset;  // on the disk
    uint64_t place;   // in `bytes`
    uint64_t nanoseconds;
};
_Static_assert(sizeof(struct record) == 32, "lab/disk.py counts on it");

static int image, records, bytes;
static off_t image_size;
static uint64_t bytes_end;

static void give_up(const char *what) {
    perror(what);
    exit(1);
}

static int open_or_give_up(const char *directory, const char *name, int flags) {
    int file = openat(directory ? open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC) : AT_FDCWD, name, flags | O_CLOEXEC, 0600);
    if (file < 0) give_up(name);
    return file;
}

static void write_all(int file, const char *from, size_t count, off_t offset) {
    while (count > 0) {
        ssize_t written = pwrite(file, from, count, offset);
        // A recording with a gap would be wrong about every cut after it.
        if (written <= 0) give_up("recorder: pwrite");
        from += written, offset += written, count -= (size_t)written;
    }
}

static void note(enum kind kind, off_t offset, const char *from, size_t count) {
    static off_t records_end;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct record record = {
        .kind = kind, .length = (uint32_t)count, .offset = (uint64_t)offset, .place = bytes_end,
        .nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
    };
    write_all(bytes, from, count, (off_t)bytes_end);
    write_all(records, (const char *)&record, sizeof record, records_end);
    bytes_end += count, records_end += sizeof record;
}

static void describe(fuse_ino_t inode, struct stat *st) {
    memset(st, 0, sizeof *st);
    st->st_ino = inode;
    st->st_nlink = 1;
    st->st_mode = inode == ROOT ? S_IFDIR | 0700 : S_IFREG | 0600;
    st->st_size = inode == DISK ? image_size : 0;
}

static void op_init(void *context, struct fuse_conn_info *connection) {
    (void)context;
    connection->max_write = 1 << 20;
}

static void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    fuse_ino_t found = parent != ROOT ? 0 : !strcmp(name, "disk") ? DISK : !strcmp(name, "mark") ? MARKS : 0;
    if (!found) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    struct fuse_entry_param entry = {.ino = found, .attr_timeout = 3600, .entry_timeout = 3600};
    describe(found, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void op_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info) {
    (void)info;
    struct stat st;
    describe(inode, &st);
    fuse_reply_attr(request, &st, 3600);
}

static void op_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *info) {
    if (inode == ROOT) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    // Past the page cache: each write of the block device is one record.
    info->direct_io = 1;
    fuse_reply_open(request, info);
}

static void op_read(fuse_req_t request, fuse_ino_t inode, size_t count, off_t offset, struct fuse_file_info *info) {
    (void)info;
    char *buffer = inode == DISK ? malloc(count) : NULL;
    ssize_t got = buffer ? pread(image, buffer, count, offset) : 0;
    if (got < 0) fuse_reply_err(request, errno);
    else fuse_reply_buf(request, buffer, (size_t)got);
    free(buffer);
}

static void op_write(
    fuse_req_t request, fuse_ino_t inode, const char *from, size_t count, off_t offset, struct fuse_file_info *info) {
    (void)info;
    if (inode == DISK && offset + (off_t)count > image_size) {
        fuse_reply_err(request, ENOSPC);
        return;
    }
    if (inode == DISK) write_all(image, from, count, offset);
    note(inode == DISK ? WRITE : MARK, inode == DISK ? offset : 0, from, count);
    fuse_reply_write(request, count);
}

static void op_fsync(fuse_req_t request, fuse_ino_t inode, int only_data, struct fuse_file_info *info) {
    (void)only_data, (void)info;
    if (inode == DISK) note(FLUSH, 0, NULL, 0);
    fuse_reply_err(request, 0);
}

static const struct fuse_lowlevel_ops operations = {
    .init = op_init, .lookup = op_lookup, .getattr = op_getattr, .open = op_open,
    .read = op_read, .write = op_write, .fsync = op_fsync,
};

int main(int count, char **words) {
    if (count != 4) {
        fprintf(stderr, "usage: recorder IMAGE DIRECTORY MOUNTPOINT\n");
        return 64;
    }
    image = open_or_give_up(NULL, words[1], O_RDWR);
    records = open_or_give_up(words[2], "records", O_WRONLY | O_CREAT | O_TRUNC);
    bytes = open_or_give_up(words[2], "bytes", O_WRONLY | O_CREAT | O_TRUNC);
    image_size = lseek(image, 0, SEEK_END);
    char *none[] = {words[0], NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(1, none);
    struct fuse_session *session = fuse_session_new(&arguments, &operations, sizeof operations, NULL);
    if (!session || fuse_session_mount(session, words[3])) return 1;
    // One thread: the order of the records is the order of the disk.
    int status = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return status ? 1 : 0;
}
