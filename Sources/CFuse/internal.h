// What the files of this shim share. It includes parts of the kernel's protocol, because linux/fuse.h may be older than the
// kernel.
#ifndef LAMINA_CFUSE_INTERNAL_H
#define LAMINA_CFUSE_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64
#define FUSE_USE_VERSION 312
#include "cfuse.h"
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>

// MARK: What protocol 7.45 has and an installed header may lack

/// fuse_init_in; the kernel sends flags2 only with INIT_EXT.
struct init_in {
    uint32_t major, minor, max_readahead, flags, flags2, unused[11];
};

/// fuse_init_out, 64 bytes since 7.23; what follows time_gran was unused then and is zero.
struct init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
    uint16_t request_timeout, unused[11];
};
_Static_assert(sizeof(struct init_out) == 64, "fuse_init_out of protocol 7.23 and later has 64 bytes");

/// fuse_open_out; before 7.40 the last word was padding.
struct open_out {
    uint64_t handle;
    uint32_t flags;
    int32_t backing;
};

struct backing_map {
    int32_t file;
    uint32_t flags;
    uint64_t padding;
};

enum {
    OPCODE_INIT = 26,
    OPCODE_COUNT = 64,
    INIT_PARALLEL_DIROPS = 1 << 18,
    INIT_EXT = 1 << 30,
    INIT2_PASSTHROUGH = 1 << 5,
    INIT2_HAS_RESEND = 1 << 7,
    OPEN_KEEP_CACHE = 1 << 1,
    OPEN_NOFLUSH = 1 << 5,
    OPEN_PASSTHROUGH = 1 << 7,
    // Nanoseconds: more than a process takes from the answer to an open to its close and the next open.
    SHORT_PAUSE = 20000,
    // Nanoseconds: longer than two processors take to wake up.
    LONG_PAUSE = 500000,
    // After how many requests in quick succession more are expected, and after how many milliseconds without one they are not.
    BURST = 16,
    BURST_END = 2,
    // How many nanoseconds a request may take while no other thread takes the next one. An answer that does not wait for
    // something takes less; see watch.
    TURN_LIMIT = 1500000,
    // After how many looks in a row without a running request the watch stops looking until one comes.
    QUIET_LOOKS = 40,
    AWAKE_NOT = -1,
    AWAKE_NEVER = -2,
    NOTIFY_RESEND = 7,
    // libfuse reads with 1 MiB (what a WRITE may have) and a page; the requests here have at most a name, and the forgotten
    // nodes of a batch, which need no care.
    BUFFER_SIZE = 2 << 20,
    REQUEST_SIZE = 16 << 10,
    // Of an INIT request; the kernel's has 104 bytes.
    INIT_LIMIT = 1024,
    // FUSE_NAME_MAX of the kernel.
    NAME_LIMIT = 1024,
};

#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

// MARK: The session

struct lamina_fuse {
    struct fuse_session *session;
    int device;
    struct lamina_fuse_settings settings;
    struct lamina_fuse_callbacks callbacks;
    // Written by the thread that processes INIT, before any other thread starts.
    uint8_t *init_request;
    size_t init_size;
    uint64_t init_unique;
    bool init_pending;
    bool replaying;
    bool ready;
    bool resend;
    enum lamina_fuse_passthrough passthrough;
    // Decides which thread may wait for the next request: one thread has the turn, or it is free. See turn.c.
    pthread_mutex_t turn_lock;
    pthread_cond_t turn_freed, watch_wanted;
    bool turn_is_free;
    // How many threads wait for it, and whether one of them is the watch.
    unsigned waiting;
    bool has_watch;
    _Atomic bool watch_sleeps;
    // When the thread that has the turn took the request that it answers; 0 while it waits for one. The thread that sets it to
    // 0 gets the turn.
    _Atomic uint64_t turn_since;
    // Requests that were answered, parked or refused: a watchdog reads this.
    _Atomic uint64_t progress;
    // With the turn: how many requests in a row came without a long pause before them, up to BURST; and the open file that
    // keeps the processors awake, or one of AWAKE_….
    unsigned burst;
    int awake;
    _Atomic uint64_t requests[OPCODE_COUNT];
    _Atomic uint64_t opens[2];
};

struct lamina_fuse_worker {
    struct lamina_fuse *fuse;
    void *context;
    struct fuse_buf buffer;
    uint64_t unique;
    bool has_turn;
    // With the turn: the value of turn_since for the current request; 0: there is none.
    uint64_t since;
    // Whether no request was there when this thread looked before it got the current one.
    bool found_none;
    // An answer that no caller waits for and that was not sent yet; its length is 0 if there is none. See pay.
    struct fuse_out_header owed;
};

/// The worker whose request this thread processes now. libfuse passes only the session to its callbacks.
extern _Thread_local struct lamina_fuse_worker *lamina_fuse_current;

extern const struct fuse_lowlevel_ops lamina_fuse_operations;

static inline struct lamina_fuse_request *wrap(fuse_req_t request) { return (struct lamina_fuse_request *)request; }
static inline fuse_req_t unwrap(struct lamina_fuse_request *request) { return (fuse_req_t)request; }

static inline bool lamina_fuse_is_read(uint32_t flags) {
    return (flags & O_ACCMODE) == O_RDONLY && (flags & O_TRUNC) == 0;
}

/// Monotonic, in nanoseconds; never 0.
uint64_t lamina_fuse_now(void);

// turn.c
int lamina_fuse_turn_init(struct lamina_fuse *fuse);
void lamina_fuse_turn_destroy(struct lamina_fuse *fuse);
void lamina_fuse_turn_wait(struct lamina_fuse_worker *worker);
void lamina_fuse_turn_begin(struct lamina_fuse_worker *worker, uint64_t since);
void lamina_fuse_turn_end(struct lamina_fuse_worker *worker);
void lamina_fuse_turn_give(struct lamina_fuse_worker *worker);

static inline void bump(_Atomic uint64_t *counter) {
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

#endif
