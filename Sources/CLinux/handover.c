// Passes descriptors from one process to the next, and starts the processes.
#define _GNU_SOURCE
#include "lamina_process.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DESCRIPTOR_LIMIT = 16, FIRST_LISTENING = 3 };

int lamina_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

// MARK: Notifications

/// The length of the address, 0 if the name does not fit. In an abstract one every byte counts (unix(7)).
static socklen_t fill_address(struct sockaddr_un *address, const char *name, size_t length, bool abstract) {
    size_t shift = abstract ? 1 : 0;
    if (length == 0 || shift + length > sizeof address->sun_path - (abstract ? 0 : 1)) return 0;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path + shift, name, length);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + shift + length);
}

union control_room {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(DESCRIPTOR_LIMIT * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
};

int lamina_notify_send(
    const char *name, size_t name_length, const char *text, size_t size, const int32_t *descriptors, int32_t count) {
    struct sockaddr_un address;
    bool abstract = name_length > 0 && name[0] == '@';
    socklen_t length = fill_address(&address, name + abstract, name_length - abstract, abstract);
    if (length == 0 || count < 0 || count > DESCRIPTOR_LIMIT) {
        errno = EINVAL;
        return -1;
    }
    int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -1;
    struct iovec part = {.iov_base = (void *)text, .iov_len = size};
    struct msghdr message = {.msg_name = &address, .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1};
    union control_room room = {0};
    if (count > 0) {
        message.msg_control = room.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, (size_t)count * sizeof(int));
    }
    ssize_t sent;
    do sent = sendmsg(descriptor, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    int error = errno;
    close(descriptor);
    errno = error;
    return sent < 0 ? -1 : 0;
}

/// A socket for datagrams, and the address of `path`; -1 with errno.
static int datagram_socket(const char *path, size_t path_length, struct sockaddr_un *address, socklen_t *length) {
    *length = fill_address(address, path, path_length, false);
    if (*length == 0) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int lamina_notify_socket(const char *path, size_t path_length) {
    struct sockaddr_un address;
    socklen_t length;
    int descriptor = datagram_socket(path, path_length, &address, &length);
    if (descriptor < 0) return -1;
    int on = 1;
    if (setsockopt(descriptor, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0 &&
        bind(descriptor, (struct sockaddr *)&address, length) == 0)
        return descriptor;
    int error = errno;
    close(descriptor);
    errno = error;
    return -1;
}

int lamina_notify_answers(const char *path, size_t path_length) {
    struct sockaddr_un address;
    socklen_t length;
    int descriptor = datagram_socket(path, path_length, &address, &length);
    if (descriptor < 0) return -1;
    int result = connect(descriptor, (struct sockaddr *)&address, length) == 0 ? 1
        : errno == ECONNREFUSED || errno == ENOENT                             ? 0
                                                                               : -1;
    int error = errno;
    close(descriptor);
    errno = error;
    return result;
}

int64_t lamina_notify_receive(
    int socket, char *text, size_t size, int32_t *descriptors, int32_t *count, int32_t *process) {
    int32_t capacity = *count;
    *count = 0;
    *process = 0;
    struct iovec part = {.iov_base = text, .iov_len = size};
    union control_room room = {0};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = room.bytes, .msg_controllen = sizeof room.bytes};
    ssize_t received;
    do received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received < 0) return -1;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET) continue;
        if (header->cmsg_type == SCM_CREDENTIALS) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(header), sizeof sender);
            *process = sender.pid;
        } else if (header->cmsg_type == SCM_RIGHTS) {
            size_t came = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < came; i++) {
                int descriptor;
                memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof descriptor);
                if (*count < capacity)
                    descriptors[(*count)++] = descriptor;
                else
                    close(descriptor);
            }
        }
    }
    return received;
}

// MARK: Starting

int32_t lamina_start_listening(
    const char *program, char *const arguments[], char *const environment[], const int32_t *descriptors, int32_t count,
    int32_t kept) {
    if (count < 0 || count > DESCRIPTOR_LIMIT) {
        errno = EINVAL;
        return -1;
    }
    // A pipe that exec closes; otherwise it reports why exec failed.
    int failure[2];
    if (pipe2(failure, O_CLOEXEC) != 0) return -1;
    pid_t child = fork();
    if (child < 0) {
        int error = errno;
        close(failure[0]);
        close(failure[1]);
        errno = error;
        return -1;
    }
    if (child == 0) {
        // First moved away from their final places, because they may take each other's. No further than needed: if few
        // descriptors are allowed (ulimit -n), a higher number is invalid (EINVAL).
        int moved[DESCRIPTOR_LIMIT];
        int above = FIRST_LISTENING + count + 1;
        int last = fcntl(failure[1], F_DUPFD_CLOEXEC, above);
        bool ready = last >= 0;
        for (int i = 0; ready && i < count; i++) {
            moved[i] = fcntl(descriptors[i], F_DUPFD_CLOEXEC, above);
            ready = moved[i] >= 0;
        }
        for (int i = 0; ready && i < count; i++) ready = dup2(moved[i], FIRST_LISTENING + i) >= 0;
        if (ready && kept >= FIRST_LISTENING + count) ready = fcntl(kept, F_SETFD, 0) == 0;
        for (char *const *variable = environment; ready && *variable != NULL; variable++)
            if (strncmp(*variable, "LISTEN_PID=", 11) == 0) snprintf(*variable + 11, 11, "%d", (int)getpid());
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        for (int number = 1; number < 32; number++) signal(number, SIG_DFL);
        if (ready) {
            // All others are closed by exec.
            close_range(FIRST_LISTENING + (unsigned)count, ~0U, CLOSE_RANGE_CLOEXEC);
            if (kept >= FIRST_LISTENING + count) fcntl(kept, F_SETFD, 0);
            execve(program, arguments, environment);
        }
        int error = errno;
        while (write(last >= 0 ? last : failure[1], &error, sizeof error) < 0 && errno == EINTR) {}
        _exit(127);
    }
    close(failure[1]);
    int error = 0;
    ssize_t told;
    do told = read(failure[0], &error, sizeof error);
    while (told < 0 && errno == EINTR);
    close(failure[0]);
    if (told <= 0) return child;
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    errno = error;
    return -1;
}

// MARK: Signals

int lamina_signal_descriptor(const int32_t *signals, int32_t count) {
    sigset_t set;
    sigemptyset(&set);
    for (int32_t i = 0; i < count; i++) sigaddset(&set, signals[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int32_t lamina_next_signal(int descriptor) {
    struct signalfd_siginfo information;
    ssize_t size;
    do size = read(descriptor, &information, sizeof information);
    while (size < 0 && errno == EINTR);
    if (size < 0) return errno == EAGAIN ? 0 : -1;
    return (int32_t)information.ssi_signo;
}

// MARK: Processes that wait for the mount
//
// The other threads of the parent are not in them, and may have held any lock: system calls only.

/// Closes what the parent has open, including the store's lock, which would outlive the parent in the child; `kept` becomes 0
/// and up.
static void keep_only(const int *kept, int count) {
    int moved[2];
    for (int i = 0; i < count; i++) moved[i] = fcntl(kept[i], F_DUPFD_CLOEXEC, 8);
    for (int i = 0; i < count; i++)
        if (moved[i] < 0 || dup2(moved[i], i) < 0) _exit(1);
    close_range((unsigned)count, ~0U, 0);
    for (int number = 1; number < 32; number++) signal(number, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    // Ctrl-C at the parent's terminal, and the terminal's end, must not reach this process.
    setsid();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int lamina_mount_apart(
    const char *base, const char *source, const char *target, const char *type, unsigned long flags, const char *data) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return -1;
    pid_t child = fork();
    if (child < 0) {
        int error = errno;
        close(ends[0]);
        close(ends[1]);
        errno = error;
        return -1;
    }
    if (child == 0) {
        keep_only(&ends[1], 1);
        int error = chdir(base) == 0 && mount(source, target, type, flags, data) == 0 ? 0 : errno;
        ssize_t told;
        do told = write(0, &error, sizeof error);
        while (told < 0 && errno == EINTR);
        // No process knows of this mount any more.
        if (told < 0 && error == 0) umount2(target, MNT_DETACH);
        _exit(0);
    }
    close(ends[1]);
    int error = EIO;
    ssize_t told;
    do told = read(ends[0], &error, sizeof error);
    while (told < 0 && errno == EINTR);
    close(ends[0]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    errno = told == sizeof error ? error : EIO;
    return errno == 0 ? 0 : -1;
}

int32_t lamina_start_prober(const char *path, int32_t commands, int32_t answers) {
    pid_t child = fork();
    if (child != 0) return child;
    keep_only((int[]){commands, answers}, 2);
    unsigned char byte;
    while (true) {
        ssize_t size = read(0, &byte, 1);
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) _exit(0);
        struct stat status;
        byte = lstat(path, &status) == 0 ? 0 : (unsigned char)errno;
        while ((size = write(1, &byte, 1)) < 0 && errno == EINTR) {}
        if (size < 0) _exit(0);
    }
}
