// What a process finds when it is started, and corrects before its first thread.
#define _GNU_SOURCE
#include "lamina_process.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

int lamina_occupy_standard_descriptors(void) {
    for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; descriptor++) {
        if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
        // The lowest free one is this one, because those below it are in use by now.
        if (open("/dev/null", O_RDWR) != descriptor) return -1;
    }
    return 0;
}

int lamina_raise_limit(int32_t resource, uint64_t wanted) {
    struct rlimit limit;
    if (getrlimit((__rlimit_resource_t)resource, &limit) != 0) return -1;
    // Only CAP_SYS_RESOURCE may raise a hard limit.
    if (limit.rlim_max < wanted) {
        struct rlimit raised = {.rlim_cur = wanted, .rlim_max = wanted};
        if (setrlimit((__rlimit_resource_t)resource, &raised) == 0) return 0;
    }
    if (limit.rlim_cur == limit.rlim_max) return 0;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit((__rlimit_resource_t)resource, &limit);
}

const int32_t lamina_rlimit_files = RLIMIT_NOFILE;
const int32_t lamina_rlimit_file_size = RLIMIT_FSIZE;
const int32_t lamina_rlimit_address_space = RLIMIT_AS;
const int32_t lamina_rlimit_data = RLIMIT_DATA;

int32_t lamina_flush_output(void) {
    // An earlier failure has left its mark in the stream, and its number here, if nothing else failed since.
    int earlier = ferror(stdout) ? errno : 0;
    if (fflush(stdout) != 0) return errno;
    if (!ferror(stdout)) return 0;
    switch (earlier) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EPIPE:
    case EBADF: return earlier;
    default: return EIO;
    }
}
