// failcall: runs a program, of which one system call fails, or all of a kind from one on.
//
//   failcall ROOT REPORT KIND NUMBER ERROR once|on COMMAND...
//
//   ROOT    only calls on files below this directory count, and ioctls on /dev/fuse. What is mounted at ROOT/fs is left out.
//   REPORT  a file that says how many calls of each kind there were, and which one failed first
//   KIND    one of `kinds` below; "all" counts all of them and lets none fail
//   NUMBER  which call of this kind fails, from 1; 0: none
//   ERROR   its errno, a number
//
// The kernel asks for each call (SECCOMP_RET_USER_NOTIF), so that it does not matter which library makes it, in which of the
// program's processes: also the servers that it leaves behind are asked about, by a process that ends when the last of them has.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

// Which of a call's arguments name the file: a descriptor; a path; a directory's descriptor and a path.
enum shape { ON_FILE, ON_PATH, AT_FIRST, AT_SECOND, ON_SECOND_PATH };

static const struct call {
    const char *kind;
    int number;
    enum shape shape;
} calls[] = {
    {"open", SYS_openat, AT_FIRST},
    {"open", SYS_openat2, AT_FIRST},
    {"write", SYS_pwrite64, ON_FILE},
    {"write", SYS_write, ON_FILE},
    {"write", SYS_pwritev, ON_FILE},
    {"write", SYS_pwritev2, ON_FILE},
    {"write", SYS_writev, ON_FILE},
    {"read", SYS_pread64, ON_FILE},
    {"read", SYS_preadv, ON_FILE},
    {"read", SYS_preadv2, ON_FILE},
    {"truncate", SYS_ftruncate, ON_FILE},
    {"truncate", SYS_truncate, ON_PATH},
    {"link", SYS_linkat, AT_SECOND},
    {"rename", SYS_renameat2, AT_SECOND},
    {"unlink", SYS_unlinkat, AT_FIRST},
    {"fsync", SYS_fsync, ON_FILE},
    {"fdatasync", SYS_fdatasync, ON_FILE},
    {"syncfs", SYS_syncfs, ON_FILE},
    {"allocate", SYS_fallocate, ON_FILE},
    {"mkdir", SYS_mkdirat, AT_FIRST},
    {"ioctl", SYS_ioctl, ON_FILE},
    {"copy", SYS_copy_file_range, ON_FILE},
#ifdef SYS_renameat
    {"rename", SYS_renameat, AT_SECOND},
#endif
#ifdef SYS_open  // Not on arm64, which has the calls with a directory alone.
    {"open", SYS_open, ON_PATH},
    {"open", SYS_creat, ON_PATH},
    {"link", SYS_link, ON_SECOND_PATH},
    {"rename", SYS_rename, ON_SECOND_PATH},
    {"unlink", SYS_unlink, ON_PATH},
    {"unlink", SYS_rmdir, ON_PATH},
    {"mkdir", SYS_mkdir, ON_PATH},
#endif
};
enum { CALLS = sizeof calls / sizeof *calls };

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "which system calls does this machine have?"
#endif

static const char *root, *kind;
static long wanted;
static int error, goes_on, report;

static void give_up(const char *what) {
    fprintf(stderr, "failcall: %s: %s\n", what, strerror(errno));
    exit(125);
}

// --- which file a call is about ---

static size_t link_target(char *into, size_t room, pid_t pid, const char *what) {
    char link[64];
    snprintf(link, sizeof link, "/proc/%d/%s", pid, what);
    ssize_t got = readlink(link, into, room - 1);
    into[got < 0 ? 0 : got] = 0;
    return got < 0 ? 0 : (size_t)got;
}

static size_t descriptor_target(char *into, size_t room, pid_t pid, int descriptor) {
    char what[32];
    if (descriptor == AT_FDCWD) return link_target(into, room, pid, "cwd");
    snprintf(what, sizeof what, "fd/%d", descriptor);
    return link_target(into, room, pid, what);
}

// Reads up to the end of a page, then of the next one: after a path there may be no memory.
static void read_text(pid_t pid, uint64_t address, char *into, size_t room) {
    size_t done = 0;
    memset(into, 0, room);
    while (done < room - 1 && strnlen(into, done) == done) {
        size_t part = 4096 - (address + done) % 4096;
        if (part > room - 1 - done) part = room - 1 - done;
        struct iovec here = {into + done, part}, there = {(void *)(uintptr_t)(address + done), part};
        ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (got <= 0) return;
        done += (size_t)got;
    }
}

static void name_file(const struct seccomp_notif *asked, enum shape shape, char *name, size_t room) {
    const __u64 *words = asked->data.args;
    if (shape == ON_FILE) {
        descriptor_target(name, room, asked->pid, (int)words[0]);
        return;
    }
    char path[4096];
    int directory = shape == AT_FIRST ? (int)words[0] : shape == AT_SECOND ? (int)words[2] : AT_FDCWD;
    read_text(asked->pid, words[shape == ON_PATH ? 0 : shape == AT_SECOND ? 3 : 1], path, sizeof path);
    size_t length = path[0] == '/' ? 0 : descriptor_target(name, room, asked->pid, directory);
    snprintf(name + length, room - length, "%s%s", path[0] == '/' ? "" : "/", path);
}

static int is_below(const char *name, const char *directory, const char *more) {
    size_t length = strlen(directory), rest = strlen(more);
    if (strncmp(name, directory, length) || strncmp(name + length, more, rest)) return 0;
    return name[length + rest] == 0 || name[length + rest] == '/';
}

static int counts(const char *name, const char *call_kind) {
    if (!strcmp(call_kind, "ioctl") && is_below(name, "/dev/fuse", "")) return 1;
    return is_below(name, root, "") && !is_below(name, root, "/fs");
}

// --- what becomes of it ---

static long seen[CALLS];
static char failed[4400] = "none";

// A line for each kind, then the call that failed. Written each time, because the last one cannot be known.
static void write_report(void) {
    char text[8192];
    int length = 0;
    for (int i = 0; i < CALLS; i++)
        if (seen[i]) length += snprintf(text + length, sizeof text - (size_t)length, "%s %ld\n", calls[i].kind, seen[i]);
    length += snprintf(text + length, sizeof text - (size_t)length, "failed %s\n", failed);
    if (pwrite(report, text, (size_t)length, 0) != length) _exit(1);
}

// Calls of one kind are counted where the kind comes first.
static int first_of_kind(int i) {
    for (int j = 0; j < i; j++)
        if (!strcmp(calls[j].kind, calls[i].kind)) return j;
    return i;
}

static int fails(const struct seccomp_notif *asked) {
    int i = 0;
    while (i < CALLS && calls[i].number != asked->data.nr) i++;
    char name[8400];
    if (i == CALLS) return 0;
    name_file(asked, calls[i].shape, name, sizeof name);
    if (!counts(name, calls[i].kind)) return 0;
    long mine = ++seen[first_of_kind(i)];
    int chosen = wanted && (goes_on ? mine >= wanted : mine == wanted);
    if (chosen && !strcmp(failed, "none")) snprintf(failed, sizeof failed, "%s %.4000s", calls[i].kind, name);
    write_report();
    return chosen;
}

static void answer(int listener) {
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    for (;;) {
        if (poll(&ready, 1, -1) < 0 && errno != EINTR) return;
        if (ready.revents & POLLHUP) return;
        if (!(ready.revents & POLLIN)) continue;
        struct seccomp_notif asked;
        memset(&asked, 0, sizeof asked);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked)) continue;
        int is_failing = fails(&asked);
        struct seccomp_notif_resp reply = {
            .id = asked.id, .error = is_failing ? -error : 0, .flags = is_failing ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE,
        };
        // ENOENT: the caller was killed meanwhile.
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
    }
}

// --- how the kernel is told to ask ---

static int listen_to_myself(void) {
    struct sock_filter filter[CALLS + 5];
    unsigned short used = 0;
    filter[used++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[used++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[used++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    struct sock_filter jumps[CALLS];
    unsigned char wanted_calls = 0;
    for (int i = 0; i < CALLS; i++)
        if (!strcmp(kind, "all") || !strcmp(kind, calls[i].kind))
            jumps[wanted_calls++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i].number, 0, 0);
    if (!wanted_calls) {
        errno = EINVAL;
        give_up(kind);
    }
    struct sock_filter whole[CALLS + 8];
    memcpy(whole, filter, used * sizeof *filter);
    // To the last instruction: those that remain, and the one that allows.
    for (unsigned char i = 0; i < wanted_calls; i++) {
        jumps[i].jt = (unsigned char)(wanted_calls - i);
        whole[used++] = jumps[i];
    }
    whole[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    whole[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
    struct sock_fprog program = {.len = used, .filter = whole};
    int listener = (int)syscall(
        SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program);
    if (listener < 0) give_up("seccomp");
    return listener;
}

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

static void hand_over(int socket, int descriptor) {
    char byte = 0;
    union control control;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    memset(&control, 0, sizeof control);
    control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
    if (sendmsg(socket, &message, 0) != 1) give_up("sendmsg");
}

static int take_over(int socket) {
    char byte;
    int descriptor;
    union control control;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) _exit(1);
    memcpy(&descriptor, CMSG_DATA(&control.header), sizeof descriptor);
    return descriptor;
}

// A separate process, not a child: the program must not see one that it did not start.
static void start_answering(const int sockets[2]) {
    pid_t child = fork();
    if (child < 0) give_up("fork");
    if (child) {
        waitpid(child, NULL, 0);
        return;
    }
    if (fork()) _exit(0);
    setsid();
    close(sockets[1]);
    // A reader of the program's output waits for its end.
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++) dup2(null, i);
    answer(take_over(sockets[0]));
    _exit(0);
}

int main(int count, char **words) {
    if (count < 8) {
        fprintf(stderr, "usage: failcall ROOT REPORT KIND NUMBER ERROR once|on COMMAND...\n");
        return 64;
    }
    root = words[1], kind = words[3], wanted = atol(words[4]), error = atoi(words[5]), goes_on = !strcmp(words[6], "on");
    report = open(words[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int sockets[2];
    if (report < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets)) give_up(words[2]);
    write_report();
    start_answering(sockets);
    close(sockets[0]);
    int listener = listen_to_myself();
    hand_over(sockets[1], listener);
    close(listener);
    execvp(words[7], words + 7);
    give_up(words[7]);
}
