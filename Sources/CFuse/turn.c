// Which thread may take the next request.
//
// Waking a second thread for a request costs more than most answers, so one thread takes requests, and keeps the turn while it
// answers. It gives the turn away if more requests wait already, or if it knows that it will wait (lamina_fuse_share). It may
// also wait without knowing before: for a page of the index that has to come from the disk, for a file's inode, for a lock. So
// one of those that wait for the turn is the *watch*: it looks, now and then while requests come, whether the thread with the
// turn has worked on one request for long, and takes the turn away then.
#include "internal.h"
#include <time.h>

uint64_t lamina_fuse_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int lamina_fuse_turn_init(struct lamina_fuse *fuse) {
    pthread_condattr_t attributes;
    int error = pthread_condattr_init(&attributes);
    if (error != 0) return error;
    // The wall clock may jump.
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&fuse->turn_lock, NULL);
    pthread_cond_init(&fuse->turn_freed, NULL);
    error = pthread_cond_init(&fuse->watch_wanted, &attributes);
    pthread_condattr_destroy(&attributes);
    fuse->turn_is_free = true;
    return error;
}

void lamina_fuse_turn_destroy(struct lamina_fuse *fuse) {
    pthread_cond_destroy(&fuse->watch_wanted);
    pthread_cond_destroy(&fuse->turn_freed);
    pthread_mutex_destroy(&fuse->turn_lock);
}

/// Sets turn_since back; returns whether it was still the caller's value.
static bool end(struct lamina_fuse *fuse, uint64_t since) {
    return atomic_compare_exchange_strong(&fuse->turn_since, &since, 0);
}

/// Waits TURN_LIMIT, or until the turn is free; with the lock.
static void pause_watch(struct lamina_fuse *fuse) {
    uint64_t end = lamina_fuse_now() + TURN_LIMIT;
    struct timespec until = {.tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000)};
    pthread_cond_timedwait(&fuse->watch_wanted, &fuse->turn_lock, &until);
}

/// Sleeps until a request comes, or the turn is free; with the lock.
static void sleep_watch(struct lamina_fuse *fuse) {
    atomic_store(&fuse->watch_sleeps, true);
    // A thread that begins with a request first says so, and then checks whether the watch sleeps: one of the two sees the
    // other.
    if (atomic_load(&fuse->turn_since) == 0) pthread_cond_wait(&fuse->watch_wanted, &fuse->turn_lock);
    atomic_store(&fuse->watch_sleeps, false);
}

/// Watches the thread that has the turn, with the lock held; returns when the turn is free. A thread that works on one request
/// for long loses the turn, and notices it after it has given the answer.
static void watch(struct lamina_fuse *fuse) {
    unsigned quiet = 0;
    while (!fuse->turn_is_free) {
        if (quiet < QUIET_LOOKS) {
            pause_watch(fuse);
        } else {
            sleep_watch(fuse);
            quiet = 0;
        }
        uint64_t since = atomic_load(&fuse->turn_since);
        quiet = since == 0 ? quiet + 1 : 0;
        if (since != 0 && lamina_fuse_now() - since >= TURN_LIMIT && end(fuse, since)) fuse->turn_is_free = true;
    }
}

/// Waits for the turn.
void lamina_fuse_turn_wait(struct lamina_fuse_worker *worker) {
    struct lamina_fuse *fuse = worker->fuse;
    pthread_mutex_lock(&fuse->turn_lock);
    fuse->waiting++;
    while (!fuse->turn_is_free) {
        if (fuse->has_watch) {
            pthread_cond_wait(&fuse->turn_freed, &fuse->turn_lock);
            continue;
        }
        fuse->has_watch = true;
        watch(fuse);
        fuse->has_watch = false;
    }
    fuse->turn_is_free = false;
    fuse->waiting--;
    worker->has_turn = true;
    // The next watch.
    if (fuse->waiting > 0 && !fuse->has_watch) pthread_cond_signal(&fuse->turn_freed);
    pthread_mutex_unlock(&fuse->turn_lock);
}

/// Records that a request was taken, with the turn, at the time `since`.
void lamina_fuse_turn_begin(struct lamina_fuse_worker *worker, uint64_t since) {
    struct lamina_fuse *fuse = worker->fuse;
    worker->since = since;
    atomic_store(&fuse->turn_since, since);
    if (!atomic_load(&fuse->watch_sleeps)) return;
    pthread_mutex_lock(&fuse->turn_lock);
    pthread_cond_signal(&fuse->watch_wanted);
    pthread_mutex_unlock(&fuse->turn_lock);
}

/// Records that the request is answered. The turn may have been taken away meanwhile.
void lamina_fuse_turn_end(struct lamina_fuse_worker *worker) {
    if (!worker->has_turn || worker->since == 0) return;
    worker->has_turn = end(worker->fuse, worker->since);
    worker->since = 0;
}

/// Gives the turn to the thread that waits for it.
void lamina_fuse_turn_give(struct lamina_fuse_worker *worker) {
    lamina_fuse_turn_end(worker);
    if (!worker->has_turn) return;
    struct lamina_fuse *fuse = worker->fuse;
    worker->has_turn = false;
    pthread_mutex_lock(&fuse->turn_lock);
    fuse->turn_is_free = true;
    // The watch goes on watching, if another thread waits.
    if (fuse->waiting > (fuse->has_watch ? 1 : 0)) pthread_cond_signal(&fuse->turn_freed);
    else if (fuse->has_watch) pthread_cond_signal(&fuse->watch_wanted);
    pthread_mutex_unlock(&fuse->turn_lock);
}
