// From libfuse to the callbacks.
#include "internal.h"
#include <fcntl.h>
#include <sys/stat.h>

static void op_init(void *data, struct fuse_conn_info *connection) {
    struct lamina_fuse *fuse = data;
    // Not wanted, though libfuse would: AUTO_INVAL_DATA, because content never changes; ASYNC_DIO, which makes a reader with
    // O_DIRECT wait where no signal reaches it; SPLICE_READ, because requests are small.
    unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
                      FUSE_CAP_NO_OPENDIR_SUPPORT | FUSE_CAP_READDIRPLUS | FUSE_CAP_SPLICE_WRITE;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    connection->want_ext = connection->capable_ext & wanted;
    if (fuse->settings.wants_passthrough && (connection->capable_ext & FUSE_CAP_PASSTHROUGH)) {
        connection->want_ext |= FUSE_CAP_PASSTHROUGH;
        // One less than max_stack_depth of the protocol.
        connection->max_backing_stack_depth = 0;
    }
#else
    connection->want = connection->capable & wanted;
#endif
    connection->max_background = fuse->settings.max_background;
    if (connection->max_readahead > fuse->settings.max_readahead)
        connection->max_readahead = fuse->settings.max_readahead;
}

#define CALL(name, ...) lamina_fuse_current->fuse->callbacks.name(lamina_fuse_current->context, __VA_ARGS__)

static void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name) {
    CALL(lookup, wrap(request), lamina_fuse_current->unique, parent, name, strlen(name));
}

static void op_getattr(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
    (void)file;
    CALL(getattr, wrap(request), lamina_fuse_current->unique, node);
}

static void op_readlink(fuse_req_t request, fuse_ino_t node) {
    CALL(readlink, wrap(request), lamina_fuse_current->unique, node);
}

static void op_open(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
    // MS_RDONLY prevents these, unless the file system is remounted.
    if (!lamina_fuse_is_read((uint32_t)file->flags)) {
        fuse_reply_err(request, EROFS);
        return;
    }
    CALL(open, wrap(request), lamina_fuse_current->unique, node, file->flags);
}

static void op_read(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *file) {
    // It may wait for the disk.
    lamina_fuse_share();
    CALL(read, wrap(request), lamina_fuse_current->unique, node, file->fh, offset, size);
}

static void op_opendir(fuse_req_t request, fuse_ino_t node, struct fuse_file_info *file) {
    (void)node;
    (void)file;
    // With NO_OPENDIR_SUPPORT this is the last OPENDIR: from now on the kernel opens directories itself, with FOPEN_KEEP_CACHE
    // | FOPEN_CACHE_DIR.
    fuse_reply_err(request, ENOSYS);
}

static void op_readdir(fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)file;
    CALL(readdir, wrap(request), lamina_fuse_current->unique, node, offset, size, false);
}

static void op_readdirplus(
    fuse_req_t request, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)file;
    CALL(readdir, wrap(request), lamina_fuse_current->unique, node, offset, size, true);
}

static void op_getxattr(fuse_req_t request, fuse_ino_t node, const char *name, size_t size) {
    CALL(getxattr, wrap(request), lamina_fuse_current->unique, node, name, strlen(name), size);
}

static void op_listxattr(fuse_req_t request, fuse_ino_t node, size_t size) {
    CALL(listxattr, wrap(request), lamina_fuse_current->unique, node, size);
}

static void op_statfs(fuse_req_t request, fuse_ino_t node) {
    CALL(statfs, wrap(request), lamina_fuse_current->unique, node);
}

// Operations that would write. The mount is read-only, so these come only after a remount.

static void op_setattr(
    fuse_req_t request, fuse_ino_t node, struct stat *attributes, int which, struct fuse_file_info *file) {
    (void)node, (void)attributes, (void)which, (void)file;
    fuse_reply_err(request, EROFS);
}

static void op_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev) {
    (void)parent, (void)name, (void)mode, (void)rdev;
    fuse_reply_err(request, EROFS);
}

static void op_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode) {
    (void)parent, (void)name, (void)mode;
    fuse_reply_err(request, EROFS);
}

static void op_remove(fuse_req_t request, fuse_ino_t parent, const char *name) {
    (void)parent, (void)name;
    fuse_reply_err(request, EROFS);
}

static void op_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name) {
    (void)target, (void)parent, (void)name;
    fuse_reply_err(request, EROFS);
}

static void op_rename(
    fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
    unsigned int flags) {
    (void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
    fuse_reply_err(request, EROFS);
}

static void op_link(fuse_req_t request, fuse_ino_t node, fuse_ino_t parent, const char *name) {
    (void)node, (void)parent, (void)name;
    fuse_reply_err(request, EROFS);
}

static void op_create(
    fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *file) {
    (void)parent, (void)name, (void)mode, (void)file;
    fuse_reply_err(request, EROFS);
}

static void op_write(
    fuse_req_t request, fuse_ino_t node, const char *bytes, size_t size, off_t offset, struct fuse_file_info *file) {
    (void)node, (void)bytes, (void)size, (void)offset, (void)file;
    fuse_reply_err(request, EROFS);
}

static void op_setxattr(
    fuse_req_t request, fuse_ino_t node, const char *name, const char *value, size_t size, int flags) {
    (void)node, (void)name, (void)value, (void)size, (void)flags;
    fuse_reply_err(request, EROFS);
}

static void op_fallocate(
    fuse_req_t request, fuse_ino_t node, int mode, off_t offset, off_t count, struct fuse_file_info *file) {
    (void)node, (void)mode, (void)offset, (void)count, (void)file;
    fuse_reply_err(request, EROFS);
}

static void op_ioctl(
    fuse_req_t request, fuse_ino_t node, unsigned int command, void *argument, struct fuse_file_info *file,
    unsigned flags, const void *in, size_t in_size, size_t out_size) {
    (void)node, (void)command, (void)argument, (void)file, (void)flags, (void)in, (void)in_size, (void)out_size;
    // overlayfs asks for the inode flags when it copies a file up, and goes on without them after ENOTTY.
    fuse_reply_err(request, ENOTTY);
}

// If an operation is missing (ACCESS, FLUSH, LSEEK, POLL, FSYNC, locks), libfuse answers ENOSYS, and the kernel then does it
// itself and does not ask again.
const struct fuse_lowlevel_ops lamina_fuse_operations = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .readlink = op_readlink,
    .open = op_open,
    .read = op_read,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .readdirplus = op_readdirplus,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .statfs = op_statfs,
    .setattr = op_setattr,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_remove,
    .rmdir = op_remove,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .create = op_create,
    .write = op_write,
    .setxattr = op_setxattr,
    .removexattr = op_remove,
    .fallocate = op_fallocate,
    .ioctl = op_ioctl,
};
