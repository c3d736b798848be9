#include "internal.h"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

_Thread_local struct lamina_fuse_worker *lamina_fuse_current;

// MARK: The way to the device

static ssize_t io_read(int device, void *buffer, size_t size, void *data) {
    (void)data;
    if (size > BUFFER_SIZE) {
        errno = EINVAL;
        return -1;
    }
    return read(device, buffer, size);
}

/// Sends a reply to INIT; while INIT is replayed, the kernel has its answer already, and gets none.
static ssize_t send_init(struct lamina_fuse *fuse, int device, const struct iovec *parts, int count) {
    if (!fuse->replaying) return writev(device, parts, count);
    ssize_t total = 0;
    for (int i = 0; i < count; i++) total += (ssize_t)parts[i].iov_len;
    return total;
}

/// Adds to the reply to INIT what the kernel offered and libfuse does not pass on: before 3.17 libfuse knows neither
/// passthrough nor PARALLEL_DIROPS, and no version knows resent requests.
static ssize_t write_init(struct lamina_fuse *fuse, int device, struct iovec *parts, int count) {
    struct fuse_out_header *header = parts[0].iov_base;
    const struct fuse_in_header *request = (const void *)fuse->init_request;
    if (header->error != 0 || count != 2 || fuse->init_size < sizeof *request + offsetof(struct init_in, flags2))
        return send_init(fuse, device, parts, count);

    struct init_in offer = {0};
    size_t offered = fuse->init_size - sizeof *request;
    memcpy(&offer, fuse->init_request + sizeof *request, offered < sizeof offer ? offered : sizeof offer);
    // A second INIT follows if the kernel's major version is above ours (libfuse asks for it then).
    if (offer.major != 7) return send_init(fuse, device, parts, count);

    // libfuse sends a shorter reply to a kernel before 7.23, which has no INIT_EXT and gets no more than it knows.
    struct init_out reply = {0};
    size_t length = parts[1].iov_len < sizeof reply ? parts[1].iov_len : sizeof reply;
    memcpy(&reply, parts[1].iov_base, length);

    reply.flags |= offer.flags & INIT_PARALLEL_DIROPS;
    fuse->passthrough = fuse->settings.wants_passthrough ? LAMINA_FUSE_PASSTHROUGH_NOT_OFFERED
                                                         : LAMINA_FUSE_PASSTHROUGH_NOT_WANTED;
    if (offer.flags & INIT_EXT) {
        length = sizeof reply;
        reply.flags |= INIT_EXT;
        reply.flags2 |= offer.flags2 & INIT2_HAS_RESEND;
        fuse->resend = offer.flags2 & INIT2_HAS_RESEND;
        if (fuse->settings.wants_passthrough && (offer.flags2 & INIT2_PASSTHROUGH)) {
            reply.flags2 |= INIT2_PASSTHROUGH;
            // Exactly 1: backing files must not be stacked themselves, and an overlay above is the second and last
            // level that the kernel allows (FILESYSTEM_MAX_STACK_DEPTH).
            reply.max_stack_depth = 1;
            fuse->passthrough = LAMINA_FUSE_PASSTHROUGH_ON;
        }
    }
    header->len = (uint32_t)(sizeof *header + length);
    struct iovec patched[2] = {parts[0], {.iov_base = &reply, .iov_len = length}};
    ssize_t written = send_init(fuse, device, patched, 2);
    fuse->ready = written >= 0;
    return written;
}

/// Sends the answer to a RELEASE, which is kept until the next request is answered: the kernel sends RELEASE in the background,
/// while the process that closed the file may have sent its next request already, and waits for that one. If the server dies
/// before, the kernel sends the RELEASE again, like any request.
static void pay(struct lamina_fuse_worker *worker) {
    if (worker->owed.len == 0) return;
    struct fuse_out_header owed = worker->owed;
    worker->owed.len = 0;
    // In a session at its end, answers are not needed.
    if (write(worker->fuse->device, &owed, sizeof owed) < 0) return;
}

static ssize_t io_writev(int device, struct iovec *parts, int count, void *data) {
    struct lamina_fuse *fuse = data;
    if (fuse->init_pending) {
        const struct fuse_out_header *header = parts[0].iov_base;
        if (header->unique == fuse->init_unique) {
            fuse->init_pending = false;
            return write_init(fuse, device, parts, count);
        }
    }
    return writev(device, parts, count);
}

static ssize_t io_splice_send(
    int from, off_t *from_offset, int to, off_t *to_offset, size_t count, unsigned int flags, void *data) {
    (void)data;
    return splice(from, from_offset, to, to_offset, count, flags);
}

// MARK: Life of a session

struct lamina_fuse *lamina_fuse_new(
    int device, const struct lamina_fuse_settings *settings, const struct lamina_fuse_callbacks *callbacks) {
    struct lamina_fuse *fuse = calloc(1, sizeof *fuse);
    if (fuse == NULL) return NULL;
    fuse->settings = *settings;
    if (lamina_fuse_turn_init(fuse) != 0) {
        free(fuse);
        errno = ENOMEM;
        return NULL;
    }
    fuse->awake = AWAKE_NOT;
    fuse->callbacks = *callbacks;
    char *name[] = {"lamina", NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(1, name);
    fuse->session = fuse_session_new(&arguments, &lamina_fuse_operations, sizeof lamina_fuse_operations, fuse);
    fuse_opt_free_args(&arguments);
    if (fuse->session == NULL) {
        lamina_fuse_turn_destroy(fuse);
        free(fuse);
        errno = ENOMEM;
        return NULL;
    }
    // libfuse closes the descriptor that it gets; the caller keeps its own. A duplicate is the same open file, unlike a clone.
    fuse->device = fcntl(device, F_DUPFD_CLOEXEC, 3);
    static const struct fuse_custom_io io = {.read = io_read, .writev = io_writev, .splice_send = io_splice_send};
    int flags = fuse->device < 0 ? -1 : fcntl(fuse->device, F_GETFL);
    int error = flags < 0 || fcntl(fuse->device, F_SETFL, flags | O_NONBLOCK) < 0
                    ? -errno
                    : fuse_session_custom_io(fuse->session, &io, fuse->device);
    if (error != 0) {
        if (fuse->device >= 0) close(fuse->device);
        fuse_session_destroy(fuse->session);
        lamina_fuse_turn_destroy(fuse);
        free(fuse);
        errno = -error;
        return NULL;
    }
    return fuse;
}

/// With the turn, or at the end.
static void let_sleep(struct lamina_fuse *fuse) {
    if (fuse->awake < 0) return;
    close(fuse->awake);
    fuse->awake = AWAKE_NOT;
    fuse->burst = 0;
}

void lamina_fuse_free(struct lamina_fuse *fuse) {
    let_sleep(fuse);
    fuse_session_destroy(fuse->session);
    lamina_fuse_turn_destroy(fuse);
    free(fuse->init_request);
    free(fuse);
}

struct lamina_fuse_worker *lamina_fuse_worker_new(struct lamina_fuse *fuse, void *context) {
    struct lamina_fuse_worker *worker = calloc(1, sizeof *worker);
    if (worker == NULL) return NULL;
    worker->fuse = fuse;
    worker->context = context;
    // If a thread that is being killed reads a request into a page that is not there yet, the kernel cannot bring the page in
    // any more, and the request's caller gets EIO (fuse_dev_do_read, get_user_pages). So the pages for requests are there from
    // the start, and stay: no swapping, and no copy on write after a fork.
    worker->buffer.mem = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (worker->buffer.mem == MAP_FAILED) {
        free(worker);
        return NULL;
    }
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
    worker->buffer.mem_size = BUFFER_SIZE;
#endif
    madvise(worker->buffer.mem, BUFFER_SIZE, MADV_DONTFORK);
    // Without the right to lock memory the pages are still there.
    if (mlock(worker->buffer.mem, REQUEST_SIZE) != 0) memset(worker->buffer.mem, 0, REQUEST_SIZE);
    return worker;
}

void lamina_fuse_worker_free(struct lamina_fuse_worker *worker) {
    lamina_fuse_turn_give(worker);
    munmap(worker->buffer.mem, BUFFER_SIZE);
    free(worker);
}

/// Keeps the bytes of an INIT request, whose answer io_writev watches for.
static int keep_init(struct lamina_fuse *fuse, const void *bytes, size_t size) {
    uint8_t *copy = malloc(size);
    if (copy == NULL) return -ENOMEM;
    memcpy(copy, bytes, size);
    free(fuse->init_request);
    fuse->init_request = copy;
    fuse->init_size = size;
    fuse->init_unique = ((const struct fuse_in_header *)bytes)->unique;
    fuse->init_pending = true;
    return 0;
}

static void process(struct lamina_fuse_worker *worker, const struct fuse_buf *buffer) {
    const struct fuse_in_header *header = buffer->mem;
    worker->unique = header->unique;
    lamina_fuse_current = worker;
    fuse_session_process_buf(worker->fuse->session, buffer);
    lamina_fuse_current = NULL;
}

int lamina_fuse_replay(struct lamina_fuse_worker *worker, const void *init_request, size_t size) {
    struct lamina_fuse *fuse = worker->fuse;
    struct fuse_in_header header;
    if (size < sizeof header + 4 * sizeof(uint32_t) || size > INIT_LIMIT) return -EPROTO;
    memcpy(&header, init_request, sizeof header);
    if (header.opcode != OPCODE_INIT || header.len != size) return -EPROTO;
    int error = keep_init(fuse, init_request, size);
    if (error != 0) return error;
    // libfuse may write into its buffer, and the kept bytes are passed on once more.
    uint64_t copy[INIT_LIMIT / sizeof(uint64_t)];
    memcpy(copy, init_request, size);
    fuse->replaying = true;
    process(worker, &(struct fuse_buf){.size = size, .mem = copy});
    fuse->replaying = false;
    return fuse->ready ? 0 : -EPROTO;
}

int lamina_fuse_resend(const struct lamina_fuse *fuse) {
    struct fuse_out_header notification = {.len = sizeof notification, .error = NOTIFY_RESEND};
    return write(fuse->device, &notification, sizeof notification) < 0 ? -errno : 0;
}

void lamina_fuse_share(void) {
    if (lamina_fuse_current != NULL) lamina_fuse_turn_give(lamina_fuse_current);
}

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/// Keeps the processors from falling asleep while requests come in quick succession, by the kernel's PM QoS. A call through
/// FUSE sleeps twice, and on many machines, especially virtual ones, waking an idle processor takes longer than everything else
/// in the call. The setting ends when the file is closed, also by a kill.
static void stay_awake(struct lamina_fuse *fuse) {
    if (fuse->awake != AWAKE_NOT) return;
    int file = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
    int32_t microseconds = 0;
    if (file >= 0 && write(file, &microseconds, sizeof microseconds) != sizeof microseconds) {
        close(file);
        file = -1;
    }
    // Without the right to it, this is not tried again.
    fuse->awake = file >= 0 ? file : AWAKE_NEVER;
}

/// Takes a request without sleeping; -EAGAIN when none comes for SHORT_PAUSE. To fall asleep and be woken costs both sides more
/// than most answers; if requests come in quick succession, the next one comes before that would be done. Meanwhile the handler
/// does what it can do ahead. -EINTR: the turn was taken away meanwhile. After a request that was long in coming, no thread
/// looks out for the next one: an idle session costs nothing.
static int look_out(struct lamina_fuse_worker *worker, uint64_t start) {
    while (true) {
        int received = fuse_session_receive_buf(worker->fuse->session, &worker->buffer);
        if (received != -EAGAIN) return received;
        worker->found_none = true;
        pay(worker);
        // It reads the index, which may have to come from the disk.
        lamina_fuse_turn_begin(worker, lamina_fuse_now());
        bool was_busy = worker->fuse->callbacks.idle(worker->context);
        lamina_fuse_turn_end(worker);
        if (!worker->has_turn) return -EINTR;
        if (was_busy) {
            start = lamina_fuse_now();
            continue;
        }
        if (lamina_fuse_now() >= start + SHORT_PAUSE) return received;
        // Not too often, because each look takes the lock of the queue of requests.
        for (int i = 0; i < 8; i++) relax();
    }
}

/// Takes a request, and waits for it; with the turn.
static int take(struct lamina_fuse_worker *worker, uint64_t start) {
    struct lamina_fuse *fuse = worker->fuse;
    struct pollfd readable = {.fd = fuse->device, .events = POLLIN};
    if (fuse->settings.busy_wait && fuse->burst >= BURST) {
        stay_awake(fuse);
        int received = look_out(worker, start);
        if (received != -EAGAIN) return received;
        worker->found_none = false;
        if (fuse->awake >= 0 && poll(&readable, 1, BURST_END) == 0) let_sleep(fuse);
    } else {
        pay(worker);
        let_sleep(fuse);
    }
    // The device does not block, so that looking and taking are one call.
    poll(&readable, 1, -1);
    return fuse_session_receive_buf(fuse->session, &worker->buffer);
}

/// Reads a request: one thread at a time. Waking a second thread for a request costs more than most answers, so the thread that
/// has the turn keeps it while it answers, and gives it away only if more requests wait already, or the answer may take long
/// (lamina_fuse_share).
static int receive(struct lamina_fuse_worker *worker) {
    struct lamina_fuse *fuse = worker->fuse;
    lamina_fuse_turn_end(worker);
    if (!worker->has_turn) {
        pay(worker);
        lamina_fuse_turn_wait(worker);
    }
    if (fuse_session_exited(fuse->session)) return 0;
    uint64_t start = lamina_fuse_now();
    worker->found_none = false;
    int received = take(worker, start);
    if (!worker->has_turn) return received;
    uint64_t end = lamina_fuse_now();
    if (end - start > LONG_PAUSE) fuse->burst = 0;
    else if (fuse->burst < BURST) fuse->burst++;
    if (received > 0) lamina_fuse_turn_begin(worker, end);
    return received;
}

static void share_if_busy(struct lamina_fuse_worker *worker, uint32_t opcode) {
    // A moment ago even this one was not there.
    if (worker->found_none) return;
    // A process that closes one file and opens the next does not count as two processes, and both are answered at once.
    if (opcode == FUSE_RELEASE || opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET) return;
    struct pollfd device = {.fd = worker->fuse->device, .events = POLLIN};
    if (poll(&device, 1, 0) > 0) lamina_fuse_turn_give(worker);
}

/// Answers what does not need a request of libfuse: a close, and an open or a request for an attribute whose answer the handler
/// knows. To make libfuse's request, keep it in the list of those that may be interrupted, and free it takes longer than the
/// rest of the answer.
static bool answer_at_once(struct lamina_fuse_worker *worker, const struct fuse_in_header *header, size_t size) {
    struct lamina_fuse *fuse = worker->fuse;
    if (!fuse->ready) return false;
    const void *argument = header + 1;
    if (header->opcode == FUSE_RELEASE && size >= sizeof *header + sizeof(struct fuse_release_in)) {
        const struct fuse_release_in *release = argument;
        // Two in a row: only one can be kept.
        pay(worker);
        fuse->callbacks.release(worker->context, header->nodeid, release->fh);
        worker->owed = (struct fuse_out_header){.len = sizeof worker->owed, .unique = header->unique};
        return true;
    }
    if (header->opcode == FUSE_OPEN && size >= sizeof *header + sizeof(struct fuse_open_in)) {
        const struct fuse_open_in *open = argument;
        if (!lamina_fuse_is_read(open->flags)) return false;
        if (!fuse->callbacks.reopen(worker->context, header->unique, header->nodeid)) return false;
        pay(worker);
        return true;
    }
    if (header->opcode == FUSE_GETXATTR && size > sizeof *header + sizeof(struct fuse_getxattr_in)) {
        const char *name = (const char *)argument + sizeof(struct fuse_getxattr_in);
        size_t room = size - sizeof *header - sizeof(struct fuse_getxattr_in);
        size_t length = strnlen(name, room);
        if (length == room) return false;
        if (!fuse->callbacks.lacks_xattr(worker->context, header->nodeid, name, length)) return false;
        struct fuse_out_header reply = {.len = sizeof reply, .error = -ENODATA, .unique = header->unique};
        // In a session at its end, answers are not needed.
        if (write(fuse->device, &reply, sizeof reply) < 0) return true;
        pay(worker);
        return true;
    }
    return false;
}

int lamina_fuse_step(struct lamina_fuse_worker *worker) {
    struct lamina_fuse *fuse = worker->fuse;
    int received = receive(worker);
    if (received == -EINTR || received == -EAGAIN) return 1;
    // The connection ends, as with ENODEV: a read that is handling a request at that moment returns this (fuse_dev_do_read).
    if (received == -ECONNABORTED) received = 0;
    if (received <= 0) {
        pay(worker);
        lamina_fuse_turn_give(worker);
        return received;
    }

    const struct fuse_in_header *header = worker->buffer.mem;
    bump(&fuse->requests[header->opcode < OPCODE_COUNT ? header->opcode : 0]);
    if (header->opcode == OPCODE_INIT && !fuse->ready) {
        int error = keep_init(fuse, header, (size_t)received);
        if (error != 0) return error;
    }
    share_if_busy(worker, header->opcode);
    if (!answer_at_once(worker, header, (size_t)received)) {
        process(worker, &worker->buffer);
        pay(worker);
    }
    bump(&fuse->progress);
    return 1;
}

bool lamina_fuse_is_ready(const struct lamina_fuse *fuse) { return fuse->ready; }

const uint8_t *lamina_fuse_init_request(const struct lamina_fuse *fuse, size_t *size) {
    *size = fuse->init_size;
    return fuse->init_request;
}

enum lamina_fuse_passthrough lamina_fuse_passthrough(const struct lamina_fuse *fuse) { return fuse->passthrough; }

bool lamina_fuse_can_resend(const struct lamina_fuse *fuse) { return fuse->resend; }

uint32_t lamina_fuse_protocol(const struct lamina_fuse *fuse) {
    struct init_in offer;
    if (fuse->init_size < sizeof(struct fuse_in_header) + 2 * sizeof(uint32_t)) return 0;
    memcpy(&offer, fuse->init_request + sizeof(struct fuse_in_header), 2 * sizeof(uint32_t));
    return offer.major << 16 | (offer.minor & 0xffff);
}

uint64_t lamina_fuse_request_count(const struct lamina_fuse *fuse, uint32_t opcode) {
    return atomic_load_explicit(&fuse->requests[opcode < OPCODE_COUNT ? opcode : 0], memory_order_relaxed);
}

uint64_t lamina_fuse_progress(const struct lamina_fuse *fuse) {
    return atomic_load_explicit(&fuse->progress, memory_order_relaxed);
}

uint64_t lamina_fuse_open_count(const struct lamina_fuse *fuse, enum lamina_fuse_open_kind kind) {
    return atomic_load_explicit(&fuse->opens[kind], memory_order_relaxed);
}

// MARK: Backing files

// libfuse 3.17 has fuse_passthrough_open, but that needs a request and loses errno, which distinguishes EPERM from EMFILE.

int32_t lamina_fuse_backing_open(const struct lamina_fuse *fuse, int file) {
    struct backing_map map = {.file = file};
    int backing = ioctl(fuse->device, BACKING_OPEN, &map);
    return backing < 0 ? -errno : backing;
}

int lamina_fuse_backing_close(const struct lamina_fuse *fuse, int32_t backing) {
    uint32_t number = (uint32_t)backing;
    return ioctl(fuse->device, BACKING_CLOSE, &number) < 0 ? -errno : 0;
}

// MARK: Notifications

/// libfuse also sends the byte after the name, so it must exist.
static bool terminate(char copy[NAME_LIMIT + 1], const void *name, size_t length) {
    if (length == 0 || length > NAME_LIMIT) return false;
    memcpy(copy, name, length);
    copy[length] = 0;
    return true;
}

int lamina_fuse_invalidate_entry(struct lamina_fuse *fuse, uint64_t parent, const void *name, size_t name_length) {
    char copy[NAME_LIMIT + 1];
    if (!terminate(copy, name, name_length)) return -ENAMETOOLONG;
    return fuse_lowlevel_notify_inval_entry(fuse->session, parent, copy, name_length);
}

int lamina_fuse_notify_delete(
    struct lamina_fuse *fuse, uint64_t parent, uint64_t child, const void *name, size_t name_length) {
    char copy[NAME_LIMIT + 1];
    if (!terminate(copy, name, name_length)) return -ENAMETOOLONG;
    return fuse_lowlevel_notify_delete(fuse->session, parent, child, copy, name_length);
}

int lamina_fuse_invalidate_node(struct lamina_fuse *fuse, uint64_t node, int64_t offset, int64_t count) {
    return fuse_lowlevel_notify_inval_inode(fuse->session, node, offset, count);
}
