// From the callbacks to libfuse: replies, and the interrupts of requests that wait for their reply.
#include "internal.h"
#include <sys/stat.h>
#include <unistd.h>

int lamina_fuse_reply_error(struct lamina_fuse_request *request, int32_t code) {
    return fuse_reply_err(unwrap(request), code);
}

static void fill_attributes(struct fuse_attr *out, const struct lamina_fuse_attributes *attributes) {
    *out = (struct fuse_attr){
        .ino = attributes->node,
        .size = attributes->size,
        .blocks = attributes->blocks,
        .atime = (uint64_t)attributes->mtime_seconds,
        .mtime = (uint64_t)attributes->mtime_seconds,
        .ctime = (uint64_t)attributes->mtime_seconds,
        .atimensec = attributes->mtime_nanoseconds,
        .mtimensec = attributes->mtime_nanoseconds,
        .ctimensec = attributes->mtime_nanoseconds,
        .mode = attributes->mode,
        .nlink = attributes->nlink,
        .uid = attributes->uid,
        .gid = attributes->gid,
        .rdev = attributes->rdev,
        .blksize = 4096,
    };
}

static void fill_entry(
    struct fuse_entry_out *out, const struct lamina_fuse_attributes *attributes, struct lamina_fuse_time entry_time,
    struct lamina_fuse_time attribute_time) {
    *out = (struct fuse_entry_out){
        .entry_valid = entry_time.seconds,
        .entry_valid_nsec = entry_time.nanoseconds,
        .attr_valid = attribute_time.seconds,
        .attr_valid_nsec = attribute_time.nanoseconds,
    };
    // Node 0 is the negative entry. The generation stays 0, because IDs are never used again.
    if (attributes == NULL) return;
    out->nodeid = attributes->node;
    fill_attributes(&out->attr, attributes);
}

int lamina_fuse_reply_entry(
    struct lamina_fuse_request *request, const struct lamina_fuse_attributes *attributes,
    struct lamina_fuse_time entry_time, struct lamina_fuse_time attribute_time) {
    struct fuse_entry_out out;
    fill_entry(&out, attributes, entry_time, attribute_time);
    return fuse_reply_buf(unwrap(request), (const char *)&out, sizeof out);
}

int lamina_fuse_reply_attributes(
    struct lamina_fuse_request *request, const struct lamina_fuse_attributes *attributes,
    struct lamina_fuse_time attribute_time) {
    struct fuse_attr_out out = {
        .attr_valid = attribute_time.seconds, .attr_valid_nsec = attribute_time.nanoseconds};
    fill_attributes(&out.attr, attributes);
    return fuse_reply_buf(unwrap(request), (const char *)&out, sizeof out);
}

int lamina_fuse_reply_bytes(struct lamina_fuse_request *request, const void *bytes, size_t count) {
    return fuse_reply_buf(unwrap(request), bytes, count);
}

int lamina_fuse_reply_file(struct lamina_fuse_request *request, int file, int64_t offset, size_t count) {
    struct fuse_bufvec source = FUSE_BUFVEC_INIT(count);
    source.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK | FUSE_BUF_FD_RETRY;
    source.buf[0].fd = file;
    source.buf[0].pos = offset;
    // Without FUSE_BUF_SPLICE_MOVE: moved pages would leave the page cache of the backing file, which is read by others too.
    return fuse_reply_data(unwrap(request), &source, 0);
}

static int reply_open(struct lamina_fuse_request *request, uint64_t handle, uint32_t flags, int32_t backing) {
    struct open_out out = {.handle = handle, .flags = flags | OPEN_NOFLUSH, .backing = backing};
    struct lamina_fuse *fuse = fuse_req_userdata(unwrap(request));
    bump(&fuse->opens[flags & OPEN_PASSTHROUGH ? LAMINA_FUSE_OPEN_PASSTHROUGH : LAMINA_FUSE_OPEN_CACHED]);
    return fuse_reply_buf(unwrap(request), (const char *)&out, sizeof out);
}

int lamina_fuse_reply_open_cached(struct lamina_fuse_request *request, uint64_t handle, bool keep_cache) {
    return reply_open(request, handle, keep_cache ? OPEN_KEEP_CACHE : 0, 0);
}

int lamina_fuse_reply_open_passthrough(struct lamina_fuse_request *request, uint64_t handle, int32_t backing) {
    return reply_open(request, handle, OPEN_PASSTHROUGH, backing);
}

int lamina_fuse_answer_reopen(struct lamina_fuse *fuse, uint64_t unique, uint64_t handle, int32_t backing) {
    struct {
        struct fuse_out_header header;
        struct open_out open;
    } reply = {
        .header = {.len = sizeof reply, .unique = unique},
        .open = {.handle = handle, .flags = OPEN_PASSTHROUGH | OPEN_NOFLUSH, .backing = backing},
    };
    _Static_assert(sizeof reply == 32, "fuse_out_header and fuse_open_out, nothing between them");
    bump(&fuse->opens[LAMINA_FUSE_OPEN_PASSTHROUGH]);
    return write(fuse->device, &reply, sizeof reply) < 0 ? -errno : 0;
}

int lamina_fuse_reply_size(struct lamina_fuse_request *request, size_t count) {
    return fuse_reply_xattr(unwrap(request), count);
}

int lamina_fuse_reply_statistics(
    struct lamina_fuse_request *request, const struct lamina_fuse_statistics *statistics) {
    struct fuse_statfs_out out = {
        .st = {
            .blocks = statistics->blocks,
            .bfree = statistics->free_blocks,
            .bavail = statistics->available_blocks,
            .files = statistics->files,
            .ffree = statistics->free_files,
            .bsize = statistics->block_size,
            .frsize = statistics->block_size,
            .namelen = statistics->name_length,
        }};
    return fuse_reply_buf(unwrap(request), (const char *)&out, sizeof out);
}

size_t lamina_fuse_add_entry(
    void *buffer, size_t capacity, size_t used, bool plus, const void *name, size_t name_length,
    const struct lamina_fuse_attributes *attributes, int64_t next_offset, struct lamina_fuse_time entry_time,
    struct lamina_fuse_time attribute_time) {
    size_t fixed = plus ? offsetof(struct fuse_direntplus, dirent) : 0;
    size_t unpadded = fixed + offsetof(struct fuse_dirent, name) + name_length;
    size_t needed = (unpadded + 7) & ~(size_t)7;
    if (used > capacity || needed > capacity - used) return 0;
    char *start = (char *)buffer + used;
    if (plus) fill_entry((void *)start, attributes, entry_time, attribute_time);
    struct fuse_dirent *entry = (void *)(start + fixed);
    entry->ino = attributes->node;
    entry->off = (uint64_t)next_offset;
    entry->namelen = (uint32_t)name_length;
    entry->type = (attributes->mode & S_IFMT) >> 12;
    memcpy(entry->name, name, name_length);
    memset(start + unpadded, 0, needed - unpadded);
    return used + needed;
}

size_t lamina_fuse_fit_entries(const void *buffer, size_t used, size_t capacity, bool plus, int64_t *next_offset) {
    size_t fixed = plus ? offsetof(struct fuse_direntplus, dirent) : 0;
    size_t end = 0;
    *next_offset = 0;
    while (end < used) {
        const struct fuse_dirent *entry = (const void *)((const char *)buffer + end + fixed);
        size_t size = (fixed + offsetof(struct fuse_dirent, name) + entry->namelen + 7) & ~(size_t)7;
        if (size > capacity - end) break;
        *next_offset = (int64_t)entry->off;
        end += size;
    }
    return end;
}

// MARK: Interrupts

/// Interrupts that this thread has learnt of and not handled yet: a step brings at most one, and one for each request that it
/// parks.
static _Thread_local struct {
    uint64_t tokens[8];
    unsigned count;
    bool overflowed;
} interrupted;

/// libfuse calls this with the request's lock held, and still needs the request afterwards in fuse_req_interrupt_func, so
/// nothing may be answered here. `request` must not be touched either: another thread may have answered it meanwhile.
static void note_interrupt(fuse_req_t request, void *data) {
    (void)request;
    if (interrupted.count < sizeof interrupted.tokens / sizeof *interrupted.tokens)
        interrupted.tokens[interrupted.count++] = (uint64_t)(uintptr_t)data;
    else
        interrupted.overflowed = true;
}

bool lamina_fuse_watch_interrupt(struct lamina_fuse_request *request, uint64_t token) {
    unsigned before = interrupted.count;
    interrupted.overflowed = false;
    fuse_req_interrupt_func(unwrap(request), note_interrupt, (void *)(uintptr_t)token);
    if (interrupted.overflowed) return true;
    if (interrupted.count == before || lamina_fuse_current != NULL) return false;
    interrupted.count = before;
    return true;
}

uint64_t lamina_fuse_take_interrupted(void) {
    return interrupted.count == 0 ? 0 : interrupted.tokens[--interrupted.count];
}
