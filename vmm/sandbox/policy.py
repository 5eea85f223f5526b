"""The system calls that a running machine may make, each with its reason, and what others get.

A machine opens everything before the guest is entered. From then on it needs what is listed here
and nothing else. Calls that name files fail with EPERM, so that what can do without goes on. Any
call that is not named ends the process at once (SECCOMP_RET_KILL_PROCESS): no part of this program
makes it, so somebody else does. seccomp(2); a test compares the list with what a run makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from virtio.named_tuple import NamedTuple

# linux/seccomp.h
ALLOW: Final = 0x7FFF_0000
KILL_PROCESS: Final = 0x8000_0000
_ERRNO: Final = 0x0005_0000
EPERM: Final = _ERRNO | 1
ENOSYS: Final = _ERRNO | 38
USER_NOTIF: Final = 0x7FC0_0000

WHOLE: Final = 0xFFFF_FFFF

_KVMIO: Final = 0xAE << 8
_TYPE_OF_REQUEST: Final = 0xFF00

_PROT_EXEC: Final = 4
_AT_EMPTY_PATH: Final = 0x1000

# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID and, of
# musl, DETACHED, which has no effect.
_THREAD: Final = 0x3D_0F00
_CLONE_DETACHED: Final = 0x40_0000

_PR_SET_NAME: Final = 15
_PR_SET_TIMERSLACK: Final = 29
_PR_SET_VMA: Final = 0x5356_4D41

_SIGTSTP: Final = 20

# asm-generic/mman-common.h. Not among them: MADV_HWPOISON and MADV_SOFT_OFFLINE, by which root
# takes pages from the host, MADV_MERGEABLE, which lets others measure what is in memory, and
# what would have RAM dumped and inherited again.
_ADVICE: Final = {
    "MADV_WILLNEED": 3,
    "MADV_DONTNEED": 4,
    "MADV_FREE": 8,
    "MADV_REMOVE": 9,
    "MADV_DONTFORK": 10,
    "MADV_HUGEPAGE": 14,
    "MADV_NOHUGEPAGE": 15,
    "MADV_DONTDUMP": 16,
    "MADV_GUARD_INSTALL": 102,
    "MADV_GUARD_REMOVE": 103,
}

_DESCRIPTOR_COMMANDS: Final = {
    "F_GETFD": 1,
    "F_SETFD": 2,
    "F_GETFL": 3,
    "F_SETFL": 4,
    "F_OFD_SETLK": 37,
    "F_DUPFD_CLOEXEC": 1030,
    "F_ADD_SEALS": 1033,
    "F_GET_SEALS": 1034,
}

# Not among them: TIOCSTI and TIOCLINUX, with which a program types into the user's shell.
_FILE_REQUESTS: Final = {
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "TCSETSW": 0x5403,
    "TIOCGPGRP": 0x540F,
    "TIOCGWINSZ": 0x5413,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
    "FICLONE": 0x4004_9409,
    # A guest discards sectors of a block device of the host.
    "BLKDISCARD": 0x1277,
    # A tap hears how far the guest takes packets unfinished, and which queues it uses.
    "TUNSETOFFLOAD": 0x4004_54D0,
    "TUNSETQUEUE": 0x4004_54D9,
}


PATHS: Final = dict.fromkeys(
    ["open", "stat", "lstat", "access", "unlink", "readlink", "execve"], 0
) | (
    dict.fromkeys(
        ["openat", "openat2", "newfstatat", "statx", "faccessat", "faccessat2", "unlinkat"], 1
    )
)
"""Which argument of a call is the name of a file, for messages."""


class Check:
    """Gives ``action`` when the low 32 bits of an argument, under ``mask``, are one of ``values``.

    Or, with ``others``, none of them. The kernel looks at no more of these arguments: they are int,
    or flags in the low half.
    """

    __slots__ = ("action", "index", "mask", "others", "values")

    def __init__(
        self,
        index: int,
        values: Sequence[int],
        *,
        mask: int = WHOLE,
        others: bool = False,
        action: int = ALLOW,
    ) -> None:
        self.index = index
        self.values = tuple(values)
        self.mask = mask
        self.others = others
        self.action = action

    def fits(self, arguments: Sequence[int]) -> bool:
        """Whether a call with these arguments gets the action."""
        return (arguments[self.index] & self.mask in self.values) is not self.others


class Rule:
    """What a system call gets: the action of the first check that fits, else ``otherwise``."""

    __slots__ = ("checks", "otherwise", "reason")

    def __init__(self, reason: str, otherwise: int = ALLOW, checks: tuple[Check, ...] = ()) -> None:
        self.reason = reason
        self.otherwise = otherwise
        self.checks = checks

    def action(self, arguments: Sequence[int]) -> int:
        """Return what a call with these arguments gets."""
        for check in self.checks:
            if check.fits(arguments):
                return check.action
        return self.otherwise


Policy = dict[str, Rule]

# Those that a guest can cause often come first, as the filter is run through in this order.
_ALLOWED: Final = {
    "read": "the console's input, eventfds",
    "write": "the console's output, eventfds, messages",
    "futex": "locks and conditions of threads",
    "epoll_wait": "an event loop waits",
    "preadv": "a disk is read",
    "pwritev": "a disk is written",
    "preadv2": "a disk is read if that needs no waiting",
    "pwritev2": "a disk is written, with flags",
    "pread64": "a part of a file is read",
    "pwrite64": "a part of a file is written",
    "readv": "a stream is read into parts",
    "writev": "a stream is written from parts",
    "getrandom": "the entropy device",
    "rt_sigtimedwait": "a vCPU takes the signal that made it leave the guest",
    "clock_gettime": "the processor time of a vCPU's thread; other clocks need no call",
    "poll": "waits with a time limit",
    "ppoll": "waits with a time limit",
    "select": "waits with a time limit",
    "pselect6": "waits with a time limit",
    "epoll_pwait": "an event loop waits",
    "epoll_ctl": "descriptors are watched",
    "epoll_create1": "an event loop renews its set",
    "eventfd2": "a device is plugged",
    "lseek": "holes of a file are found",
    "sendfile": "parts of a file are copied",
    "copy_file_range": "parts of a file are copied",
    "fallocate": "a guest discards or zeroes sectors",
    "ftruncate": "an overlay or a copy gets its size",
    "fsync": "a disk is made stable",
    "fdatasync": "a disk is made stable",
    "memfd_create": "the memory and the blocks of a snapshot",
    "fstat": "the size and the storage of an open file",
    "close": "the end of a machine",
    "close_range": "the end of a machine",
    "dup": "a descriptor gets a second owner",
    "dup2": "output that nobody reads is thrown away",
    "dup3": "a descriptor gets a second owner",
    "brk": "memory of the interpreter",
    "munmap": "memory of the interpreter, the end of a machine",
    "mremap": "memory of the interpreter",
    "membarrier": "the fence of a ring",
    "rt_sigaction": "handlers of signals are set back at the end",
    "rt_sigprocmask": "a thread blocks signals",
    "rt_sigreturn": "a handler of a signal returns",
    "rt_sigpending": "signals are looked at",
    "sigaltstack": "a thread begins or ends",
    "restart_syscall": "a call goes on after a stop",
    "set_robust_list": "a thread begins",
    "rseq": "a thread begins",
    "set_tid_address": "a thread begins",
    "gettid": "a thread begins",
    "getpid": "a signal to ourselves",
    "getppid": "asked by the library",
    "getpgrp": "whether the terminal is ours now",
    "uname": "the machine type, which has to be that of the C parts",
    "sched_yield": "a lock is handed over",
    "sched_getaffinity": "how many processors there are",
    "clock_getres": "the library asks",
    "clock_nanosleep": "waits with a time limit",
    "nanosleep": "waits with a time limit",
    "getrusage": "counts of a run",
    "times": "counts of a run",
    "exit": "a thread ends",
    "exit_group": "the end",
}

_SOCKET_CALLS: Final = {
    "accept4": "a program of the host comes to the guest's sockets",
    "recvfrom": "data of a socket",
    "recvmsg": "a socket that a process outside opened",
    "sendto": "data for a socket",
    "sendmsg": "data for a socket",
    "shutdown": "one side of a connection sends no more",
    "socketpair": "a connection gets its two ends",
    "getsockname": "the library asks for the kind of a socket",
    "setsockopt": "a connection gets its buffers",
}
"""Of machines that have sockets; none of them reaches anything that is not there already."""

# What only reads metadata is among them: existence and names of files are nobody's business.
_FILE_CALLS: Final = """
    open openat openat2 creat stat lstat statx access faccessat faccessat2 readlink readlinkat
    getcwd chdir fchdir getdents getdents64 mkdir mkdirat rmdir unlink unlinkat rename renameat
    renameat2 link linkat symlink symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown
    fchown lchown fchownat truncate utime utimes utimensat futimesat statfs fstatfs flock umask
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat
    name_to_handle_at open_by_handle_at
"""

_ANSWERED: Final = {
    "clone3": Rule("its flags are out of a filter's reach; the library then takes clone", ENOSYS),
    "prlimit64": Rule("limits stay; the library asks for them where it can do without", EPERM),
    "getrlimit": Rule("limits stay; the library asks for them where it can do without", EPERM),
    "sysinfo": Rule("the library asks for the size of memory where it can do without", EPERM),
}


# For the directories that are shared. Landlock keeps them below these where files are opened, made,
# renamed or removed. It has no say about the names of files, nor about the mode, owner, times and
# extended attributes of what the user owns: those calls have no form for O_PATH but by a path.
_READ_FOLDERS: Final = {
    "openat": "a file or directory of a share is opened, below its directory",
    "newfstatat": "a name in a share is looked up",
    "readlinkat": "a symbolic link of a share is told",
    "getdents64": "a directory of a share is listed",
    "fstatfs": "the room of a share is told",
    "getxattr": "an extended attribute in a share is told",
    "listxattr": "the names of extended attributes in a share are told",
    "flock": "a guest locks a file of a share",
    "syncfs": "a share is made stable",
}
_CHANGE_FOLDERS: Final = {
    "mkdirat": "a directory is made in a share",
    "mknodat": "a file is made in a share",
    "symlinkat": "a symbolic link is made in a share",
    "linkat": "a file of a share gets another name",
    "unlinkat": "a name is removed from a share",
    "renameat": "a file of a share is renamed: glibc makes this of renameat2 without flags",
    "renameat2": "a file of a share is renamed",
    "fchmodat": "the mode of a file in a share is changed",
    "fchmod": "a write takes set-user-ID from a file in a share",
    "fchownat": "the owner of a file in a share is changed",
    "utimensat": "the times of a file in a share are changed",
    "setxattr": "an extended attribute in a share is changed",
    "removexattr": "an extended attribute in a share is removed",
}
_SHARED_LOCK_COMMANDS: Final = {"F_OFD_GETLK": 36}


class OpenFolder(NamedTuple):
    """A directory that a machine shares: its descriptor, and whether the guest may change it.

    ``descriptors`` is how many more the share may open.
    """

    fd: int
    writable: bool
    descriptors: int


def policy(
    requests: Iterable[int],
    process: int,
    *,
    sockets: bool = False,
    folders: Sequence[OpenFolder] = (),
) -> Policy:
    """Return the rules for a machine whose KVM ``requests`` these are, in this ``process``.

    With ``sockets`` it may use those that it has; what ``folders`` need is allowed beside that.
    """
    rules = _usual_policy(requests, process, sockets=sockets)
    if folders:
        rules |= {name: Rule(reason) for name, reason in _READ_FOLDERS.items()}
        commands = (*_DESCRIPTOR_COMMANDS.values(), *_SHARED_LOCK_COMMANDS.values())
        rules["fcntl"] = Rule("descriptors: flags, locks, seals", EPERM, (Check(1, commands),))
    if any(one.writable for one in folders):
        rules |= {name: Rule(reason) for name, reason in _CHANGE_FOLDERS.items()}
    return rules


def _usual_policy(requests: Iterable[int], process: int, *, sockets: bool) -> Policy:
    ioctls = (
        Check(1, tuple(requests)),
        Check(1, tuple(_FILE_REQUESTS.values())),
        Check(1, (_KVMIO,), mask=_TYPE_OF_REQUEST, action=KILL_PROCESS),
    )
    not_executable = (Check(2, (0,), mask=_PROT_EXEC),)
    own = (Check(0, (process,)),)
    own_or_suspend = (
        *own,
        Check(0, (0,), others=True, action=KILL_PROCESS),
        Check(1, (_SIGTSTP,)),  # to the group, which is the job: Ctrl-Z
    )
    return {
        "ioctl": Rule("KVM by its requests, terminals", EPERM, ioctls),
        **{name: Rule(reason) for name, reason in _ALLOWED.items()},
        **{name: Rule(reason) for name, reason in _SOCKET_CALLS.items() if sockets},
        "mmap": Rule("memory, never executable", EPERM, not_executable),
        "mprotect": Rule("memory, never executable", EPERM, not_executable),
        "madvise": Rule(
            "memory that the guest gives back, stacks of threads",
            EPERM,
            (Check(2, tuple(_ADVICE.values())),),
        ),
        "clone": Rule(
            "threads, never processes",
            KILL_PROCESS,
            (Check(0, (_THREAD,), mask=WHOLE & ~_CLONE_DETACHED),),
        ),
        "newfstatat": Rule("fstat in some libraries", EPERM, (Check(3, (_AT_EMPTY_PATH,)),)),
        "fcntl": Rule(
            "descriptors: flags, locks, seals",
            EPERM,
            (Check(1, tuple(_DESCRIPTOR_COMMANDS.values())),),
        ),
        "prctl": Rule(
            "a thread's name and timers, names of memory",
            EPERM,
            (Check(0, (_PR_SET_NAME, _PR_SET_TIMERSLACK, _PR_SET_VMA)),),
        ),
        "kill": Rule("a signal to ourselves; our job is suspended", KILL_PROCESS, own_or_suspend),
        "tgkill": Rule("a vCPU is made to leave the guest", KILL_PROCESS, own),
        **_ANSWERED,
        **{name: Rule("no file is opened any more", EPERM) for name in _FILE_CALLS.split()},
    }
