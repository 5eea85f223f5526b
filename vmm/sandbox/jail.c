/*
 * Steps into a jail: namespaces, an empty root, no capabilities. In which order, and what else
 * belongs to it, is in vmm/sandbox/jail.py. Functions return minus an errno where they fail.
 *
 * namespaces(7), user_namespaces(7), pid_namespaces(7), pivot_root(2), capabilities(7).
 */

#ifndef _GNU_SOURCE /* Python.h defines it */
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The children of this process get numbers of their own; for that a user needs a namespace, too. */
int new_process_numbers(int with_user_namespace)
{
    return unshare(CLONE_NEWPID | (with_user_namespace ? CLONE_NEWUSER : 0)) ? -errno : 0;
}

/* Everything else, for this process. */
int new_namespaces(void)
{
    int all = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
              CLONE_NEWCGROUP;
    return unshare(all) || sethostname("jail", 4) ? -errno : 0;
}

/* Have this process end when its parent does. */
int end_with_parent(void)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) ? -errno : 0;
}

/* Keeps of the capabilities of this process those in a mask. */
int keep_capabilities(uint64_t kept)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{(uint32_t)kept, (uint32_t)kept, 0},
                                             {(uint32_t)(kept >> 32), (uint32_t)(kept >> 32), 0}};
    return syscall(SYS_capset, &header, data) ? -errno : 0;
}

/* Gives away all capabilities, and every way to have one again. */
int drop_capabilities(void)
{
    unsigned long ways = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                         SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                         SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) ||
        prctl(PR_SET_SECUREBITS, ways, 0, 0, 0))
        return -errno;
    for (unsigned long one = 0; prctl(PR_CAPBSET_READ, one, 0, 0, 0) >= 0; one++)
        if (prctl(PR_CAPBSET_DROP, one, 0, 0, 0))
            return -errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    return keep_capabilities(0);
}

/*
 * Makes an empty file system, which nobody can write to, the root of this process. The new root is
 * mounted on /proc, which is there on every host; `call` gets the name of what failed.
 */
int empty_root(const char **call)
{
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    *call = "mount";
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("jail", "/proc", "tmpfs", flags, "size=4k,nr_inodes=1,mode=0555") ||
        mount(NULL, "/proc", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL))
        return -errno;
    *call = "chdir";
    if (chdir("/proc"))
        return -errno;
    *call = "pivot_root";
    if (syscall(SYS_pivot_root, ".", ".")) /* the old root then lies over the new one */
        return -errno;
    *call = "umount2";
    if (umount2(".", MNT_DETACH) || chdir("/"))
        return -errno;
    return 0;
}

/*
 * Is the first process of a namespace of process numbers: holds nothing, hears nothing, and waits
 * for its end, which ends all others there.
 */
void hold_process_numbers(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGCHLD, SIG_IGN); /* which has the kernel take the status of those that are left here */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    setsid();
    syscall(SYS_close_range, 0u, ~0u, 0u);
    keep_capabilities(0);
    for (;;)
        pause();
}
