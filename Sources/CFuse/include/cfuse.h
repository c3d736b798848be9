// A narrow interface to libfuse's low-level API, with passthrough, in our own types.
//
// Swift sees neither libfuse's nor the kernel's headers: they want _FILE_OFFSET_BITS, and the installed ones may be older than
// the kernel. It has only what a read-only file system needs; policy is in LaminaFUSE.
#ifndef LAMINA_CFUSE_H
#define LAMINA_CFUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// A session: one connection to the kernel.
struct lamina_fuse;
/// What one thread needs to take requests: its buffer.
struct lamina_fuse_worker;
/// A request that waits for its answer (libfuse's fuse_req). Every reply function ends its life.
struct lamina_fuse_request;

/// How long the kernel may keep something.
struct lamina_fuse_time {
    uint64_t seconds;
    uint32_t nanoseconds;
};

struct lamina_fuse_attributes {
    uint64_t node;
    uint64_t size;
    uint64_t blocks;
    int64_t mtime_seconds;
    uint32_t mtime_nanoseconds;
    uint32_t mode;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint32_t rdev;
};

struct lamina_fuse_statistics {
    uint64_t blocks, free_blocks, available_blocks, files, free_files;
    uint32_t block_size, name_length;
};

struct lamina_fuse_settings {
    bool wants_passthrough;
    /// While requests come in quick succession: the processors are kept awake, and the next request is looked out for.
    bool busy_wait;
    /// How many requests without a waiting caller (read-ahead) may be in flight at once.
    uint16_t max_background;
    uint32_t max_readahead;
};

/// Called by lamina_fuse_step, with the `context` that was given to it.
struct lamina_fuse_callbacks {
    void (*lookup)(
        void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t parent, const char *name,
        size_t name_length);
    void (*getattr)(void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node);
    void (*readlink)(void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node);
    void (*open)(void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node, int32_t flags);
    /// Asked before open: answers with lamina_fuse_answer_reopen and returns true, or returns false.
    bool (*reopen)(void *context, uint64_t unique, uint64_t node);
    /// Asked before getxattr: whether the answer is that there is no such attribute.
    bool (*lacks_xattr)(void *context, uint64_t node, const char *name, size_t name_length);
    void (*read)(
        void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node, uint64_t handle,
        int64_t offset, size_t size);
    /// Answered by the shim when this returns.
    void (*release)(void *context, uint64_t node, uint64_t handle);
    void (*readdir)(
        void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node, int64_t offset, size_t size,
        bool plus);
    void (*getxattr)(
        void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node, const char *name,
        size_t name_length, size_t size);
    void (*listxattr)(
        void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node, size_t size);
    void (*statfs)(void *context, struct lamina_fuse_request *request, uint64_t unique, uint64_t node);
    /// With busy_wait, while no request is there: may do work that later requests will need. False: there is nothing to do.
    bool (*idle)(void *context);
};

enum lamina_fuse_passthrough {
    LAMINA_FUSE_PASSTHROUGH_UNKNOWN = 0,
    LAMINA_FUSE_PASSTHROUGH_ON = 1,
    LAMINA_FUSE_PASSTHROUGH_NOT_WANTED = 2,
    LAMINA_FUSE_PASSTHROUGH_NOT_OFFERED = 3,
};

enum lamina_fuse_open_kind {
    LAMINA_FUSE_OPEN_CACHED = 0,
    LAMINA_FUSE_OPEN_PASSTHROUGH = 1,
};

/// Bit 63 of a request's unique ID: the kernel sends it again because its first reader died (FUSE_NOTIFY_RESEND).
static const uint64_t LAMINA_FUSE_UNIQUE_RESEND = UINT64_C(1) << 63;

/// Makes a session on an open /dev/fuse (its descriptor is duplicated, never cloned). NULL with errno.
struct lamina_fuse *lamina_fuse_new(
    int device, const struct lamina_fuse_settings *settings, const struct lamina_fuse_callbacks *callbacks);
/// Every request must have been answered.
void lamina_fuse_free(struct lamina_fuse *fuse);

struct lamina_fuse_worker *lamina_fuse_worker_new(struct lamina_fuse *fuse, void *context);
void lamina_fuse_worker_free(struct lamina_fuse_worker *worker);

/// Waits for one request and processes it. 1: go on; 0: the connection has ended; below: -errno.
int lamina_fuse_step(struct lamina_fuse_worker *worker);

/// Takes over a connection whose INIT another process has answered: processes the bytes of that request and swallows the reply.
/// Before any step, and alone: if another thread read a request first, libfuse would answer it with EIO. 0 or -errno.
int lamina_fuse_replay(struct lamina_fuse_worker *worker, const void *init_request, size_t size);
/// Has the kernel send again what any process has read and not answered (FUSE_NOTIFY_RESEND, Linux 6.9). 0 or -errno.
int lamina_fuse_resend(const struct lamina_fuse *fuse);

/// Lets another thread take requests while this one answers; a callback calls it before it does what may take long. On a thread
/// that does not step it has no effect.
void lamina_fuse_share(void);

/// Whether INIT has been answered.
bool lamina_fuse_is_ready(const struct lamina_fuse *fuse);
/// The bytes of the INIT request, header included; NULL before it came. Valid as long as the session.
const uint8_t *lamina_fuse_init_request(const struct lamina_fuse *fuse, size_t *size);
enum lamina_fuse_passthrough lamina_fuse_passthrough(const struct lamina_fuse *fuse);
bool lamina_fuse_can_resend(const struct lamina_fuse *fuse);
/// The protocol that the kernel speaks, as major << 16 | minor; 0 before INIT.
uint32_t lamina_fuse_protocol(const struct lamina_fuse *fuse);

// Counters.
uint64_t lamina_fuse_request_count(const struct lamina_fuse *fuse, uint32_t opcode);
/// Requests that a thread has finished: answered, parked or refused.
uint64_t lamina_fuse_progress(const struct lamina_fuse *fuse);
uint64_t lamina_fuse_open_count(const struct lamina_fuse *fuse, enum lamina_fuse_open_kind kind);

// Replies. All return 0, or -errno from giving the reply to the kernel: -ENOENT says that no caller waits for it any more.
int lamina_fuse_reply_error(struct lamina_fuse_request *request, int32_t code);
/// `attributes` NULL: there is no such name, and the kernel may remember that for `entry_time`.
int lamina_fuse_reply_entry(
    struct lamina_fuse_request *request, const struct lamina_fuse_attributes *attributes,
    struct lamina_fuse_time entry_time, struct lamina_fuse_time attribute_time);
int lamina_fuse_reply_attributes(
    struct lamina_fuse_request *request, const struct lamina_fuse_attributes *attributes,
    struct lamina_fuse_time attribute_time);
int lamina_fuse_reply_bytes(struct lamina_fuse_request *request, const void *bytes, size_t count);
/// Sends a range of a file; ends early where the file ends. Zeros are not added.
int lamina_fuse_reply_file(struct lamina_fuse_request *request, int file, int64_t offset, size_t count);
int lamina_fuse_reply_open_cached(struct lamina_fuse_request *request, uint64_t handle, bool keep_cache);
int lamina_fuse_reply_open_passthrough(struct lamina_fuse_request *request, uint64_t handle, int32_t backing);
/// In `reopen` alone, on the thread that was asked: as lamina_fuse_reply_open_passthrough.
int lamina_fuse_answer_reopen(struct lamina_fuse *fuse, uint64_t unique, uint64_t handle, int32_t backing);
/// The size of an extended attribute (or list of names), asked for with size 0.
int lamina_fuse_reply_size(struct lamina_fuse_request *request, size_t count);
int lamina_fuse_reply_statistics(
    struct lamina_fuse_request *request, const struct lamina_fuse_statistics *statistics);

/// Appends a directory entry to `buffer` (8-byte aligned, `used` of `capacity` bytes filled) and returns how many are filled
/// then; 0 if it does not fit. Without `plus` only the node and the type of `attributes` are sent.
size_t lamina_fuse_add_entry(
    void *buffer, size_t capacity, size_t used, bool plus, const void *name, size_t name_length,
    const struct lamina_fuse_attributes *attributes, int64_t next_offset, struct lamina_fuse_time entry_time,
    struct lamina_fuse_time attribute_time);

/// How many bytes of a buffer's first entries fit into `capacity`, and the offset of the last of them (0: none fits).
size_t lamina_fuse_fit_entries(const void *buffer, size_t used, size_t capacity, bool plus, int64_t *next_offset);

// Interrupts.
/// From now on, lamina_fuse_take_interrupted reports `token` when the request's caller is interrupted, after the step of the
/// thread that learns of it. True: it was interrupted before, and the caller must handle it, because this thread does not step.
bool lamina_fuse_watch_interrupt(struct lamina_fuse_request *request, uint64_t token);
/// A token reported to this thread; 0 if there is none. Never called in a callback.
uint64_t lamina_fuse_take_interrupted(void);

// Backing files of passthrough. The ID, or -errno.
int32_t lamina_fuse_backing_open(const struct lamina_fuse *fuse, int file);
int lamina_fuse_backing_close(const struct lamina_fuse *fuse, int32_t backing);

// Notifications: 0 or -errno; -ENOENT if the kernel had nothing cached.
int lamina_fuse_invalidate_entry(struct lamina_fuse *fuse, uint64_t parent, const void *name, size_t name_length);
int lamina_fuse_notify_delete(
    struct lamina_fuse *fuse, uint64_t parent, uint64_t child, const void *name, size_t name_length);
int lamina_fuse_invalidate_node(struct lamina_fuse *fuse, uint64_t node, int64_t offset, int64_t count);

#endif
