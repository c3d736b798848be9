#define _GNU_SOURCE
#include "lamina_process.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

const int32_t lamina_o_path = O_PATH;
const int32_t lamina_o_direct = O_DIRECT;

int lamina_pipe(int32_t ends[2]) { return pipe2(ends, O_CLOEXEC); }

int lamina_spawn_session(
    const char *program, char *const arguments[], int32_t output, int32_t ready, int32_t ready_as, int32_t *process) {
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error != 0) return error;
    posix_spawnattr_t attributes;
    error = posix_spawnattr_init(&attributes);
    if (error != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return error;
    }
    sigset_t defaults, none;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGTERM);
    sigaddset(&defaults, SIGHUP);
    sigaddset(&defaults, SIGPIPE);
    if (!error) error = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!error) error = posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    if (!error) error = posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
    // Also if both are the same number: that clears FD_CLOEXEC.
    if (!error) error = posix_spawn_file_actions_adddup2(&actions, ready, ready_as);
    if (!error) error = posix_spawn_file_actions_addchdir_np(&actions, "/");
    if (!error) error = posix_spawnattr_setsigdefault(&attributes, &defaults);
    if (!error) error = posix_spawnattr_setsigmask(&attributes, &none);
    if (!error) {
        error = posix_spawnattr_setflags(
            &attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    }
    pid_t started = 0;
    if (!error) error = posix_spawn(&started, program, &actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    *process = started;
    return error;
}
