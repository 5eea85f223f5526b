/*
 * Confines threads and the process: Landlock, seccomp and limits. What is allowed is Python's to
 * decide: vmm/sandbox/policy.py. Functions return minus an errno where they fail.
 *
 * landlock(7), seccomp(2), seccomp_unotify(2), prctl(2).
 */

#ifndef _GNU_SOURCE /* Python.h defines it */
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Of Linux 6.7 and 6.12, where headers are older: struct landlock_ruleset_attr of ABI 6. */
struct ruleset {
    uint64_t files, network, scopes;
};

int landlock_abi(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return abi < 0 ? -errno : (int)abi;
}

static int no_new_privileges(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

/*
 * Takes the rights from the calling thread, and from those that it starts later; below each of the
 * folders, which are descriptors, some rights on files stay.
 */
int landlock_deny(uint64_t files, uint64_t network, uint64_t scopes, const int *folders,
                  const uint64_t *kept, unsigned count)
{
    struct ruleset rules = {files, network, scopes};
    size_t size = scopes ? sizeof rules : network ? 16 : 8; /* older kernels know the first ones */
    int error = no_new_privileges();
    long fd = error ? error : syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    if (fd < 0)
        return error ? error : -errno;
    for (unsigned one = 0; one < count && !error; one++) {
        struct landlock_path_beneath_attr below = {kept[one] & files, folders[one]};
        error = syscall(SYS_landlock_add_rule, (int)fd, LANDLOCK_RULE_PATH_BENEATH, &below, 0)
                    ? -errno : 0;
    }
    if (!error)
        error = syscall(SYS_landlock_restrict_self, (int)fd, 0) ? -errno : 0;
    close((int)fd);
    return error;
}

int has_action(uint32_t action)
{
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

/* Asks with no filter: EFAULT tells that the flag is known. */
int has_tsync(void)
{
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL) < 0 &&
           errno == EFAULT;
}

static int install(const void *program, unsigned instructions, unsigned long flags)
{
    struct sock_fprog filter = {instructions, (struct sock_filter *)program};
    int error = no_new_privileges();
    /* Without the flag, kernels before 5.16 slow the whole process down against Spectre. */
    long result = error ? error
                        : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                  flags | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &filter);
    return result < 0 && !error ? -errno : (int)result;
}

/* Returns a thread's number where that one has a filter which the others do not have. */
int set_filter(const void *program, unsigned instructions, int all_threads)
{
    return install(program, instructions, all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0);
}

/* What the calls are named, and which argument of each is a path, or -1. */
struct watch {
    int listener;
    const char *const *names;
    const int8_t *paths;
    unsigned count;
};

enum { LINES = 256, TEXT = 256, NOT_YET = -1000000 };

/* Copies a path of the call as text; the page after it may be missing. */
static void read_path(uint64_t address, char *path, size_t size)
{
    size_t length = 0;
    for (; length + 1 < size; length++) {
        struct iovec to = {path + length, 1}, from = {(void *)(uintptr_t)(address + length), 1};
        if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1 || !path[length])
            break;
        if (path[length] < ' ' || path[length] > '~')
            path[length] = '?';
    }
    path[length] = 0;
}

/* Writes a line about a call, once for each. */
static void report(const struct watch *watch, const struct seccomp_data *call)
{
    static uint64_t reported[LINES];
    static unsigned lines;
    char text[TEXT], path[TEXT / 2] = "";
    unsigned number = (unsigned)call->nr;
    const char *name = number < watch->count ? watch->names[number] : NULL;
    uint64_t hash = 14695981039346656037ull;
    if (lines == LINES)
        return;
    if (name && watch->paths[number] >= 0)
        read_path(call->args[watch->paths[number]], path, sizeof path);
    int length = snprintf(text, sizeof text, "vmm: sandbox: would refuse %s%s%s",
                          name ? name : "call", *path ? " " : "", path);
    if (!name)
        length += snprintf(text + length, sizeof text - length, " %u", number);
    if (number == SYS_ioctl || number == SYS_fcntl || number == SYS_prctl || number == SYS_clone)
        length += snprintf(text + length, sizeof text - length, " %#llx",
                           (unsigned long long)call->args[number == SYS_ioctl ||
                                                          number == SYS_fcntl]);
    for (int i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)text[i]) * 1099511628211ull;
    for (unsigned i = 0; i < lines; i++)
        if (reported[i] == hash)
            return;
    reported[lines++] = hash;
    text[length++] = '\n';
    if (write(2, text, (size_t)length) < 0)
        return;
}

/* Lets every call that is asked about go on: none is refused, so that all of them are seen. */
static void *watch_calls(void *argument)
{
    const struct watch *watch = argument;
    for (;;) {
        struct seccomp_notif call = {0};
        if (ioctl(watch->listener, SECCOMP_IOCTL_NOTIF_RECV, &call)) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            return NULL;
        }
        report(watch, &call.data);
        struct seccomp_notif_resp answer = {
            .id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(watch->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

/* A lock would not do: the other thread may make no call any more that is asked about. */
static void *begin_watch(void *argument)
{
    const struct watch *watch = argument;
    const struct timespec moment = {0, 20000};
    while (__atomic_load_n(&watch->listener, __ATOMIC_ACQUIRE) == NOT_YET)
        nanosleep(&moment, NULL);
    return watch->listener < 0 ? NULL : watch_calls(argument);
}

/*
 * Installs a filter that asks (SECCOMP_RET_USER_NOTIF), and has a thread write what it was asked
 * about to stderr. That thread begins before the filter and so is not under it. Once a process.
 */
int watch_filter(const void *program, unsigned instructions, const char *const *names,
                 const int8_t *paths, unsigned count)
{
    static struct watch watch;
    sigset_t all, before;
    pthread_t thread;
    watch = (struct watch){NOT_YET, names, paths, count};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, begin_watch, &watch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return -error;
    pthread_detach(thread);
    int listener = install(program, instructions, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    __atomic_store_n(&watch.listener, listener, __ATOMIC_RELEASE);
    return listener < 0 ? listener : 0;
}

/* No core file, no debugger of the same user, no more descriptors than that. For good. */
int limit_process(uint64_t descriptors)
{
    struct rlimit no_core = {0, 0}, files;
    if (getrlimit(RLIMIT_NOFILE, &files))
        return -errno;
    if (files.rlim_max > descriptors) /* RLIM_INFINITY is the largest; a lower one stays */
        files.rlim_max = descriptors;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_CORE, &no_core) || setrlimit(RLIMIT_NOFILE, &files) ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return -errno;
    return 0;
}

static struct {
    const char *message;
    unsigned length;
    int status;
} bus_error;

static void end_by_bus_error(int number)
{
    (void)number;
    ssize_t ignored = write(2, bus_error.message, bus_error.length);
    (void)ignored;
    _exit(bus_error.status);
}

/* Has a page that cannot be read end the process with a message; `message` must stay. */
int explain_bus_errors(const char *message, unsigned length, int status)
{
    struct sigaction action = {.sa_handler = end_by_bus_error};
    bus_error.message = message;
    bus_error.length = length;
    bus_error.status = status;
    return sigaction(SIGBUS, &action, NULL) ? -errno : 0;
}
