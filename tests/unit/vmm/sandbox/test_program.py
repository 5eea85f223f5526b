"""The filter does what the policy says, call by call."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import bpf
from vmm.sandbox.policy import Check, Rule, policy
from vmm.sandbox.process import filter_for
from vmm.sandbox.program import program
from vmm.x86 import RUNNING_REQUESTS, SYSTEM_CALLS

X86_64 = 0xC000_003E
I386 = 0x4000_0003
ALLOW = 0x7FFF_0000
EPERM = 0x0005_0001
ENOSYS = 0x0005_0026
KILL = 0x8000_0000

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
PROGRAM = filter_for()
POLICY = policy((one.number for one in RUNNING_REQUESTS), os.getpid())
NAMES = {number: name for name, number in SYSTEM_CALLS.items()}

WORDS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 0x8000),
    st.sampled_from([one.number for one in RUNNING_REQUESTS]),
    st.sampled_from([0x3D0F00, 0x7D0F00, 0x3D0F00 ^ 0x10000, 0x1000, os.getpid(), 4, 7, 29]),
)


def answer(name: str, *arguments: int) -> int:
    return bpf.run(PROGRAM, SYSTEM_CALLS[name], X86_64, (*arguments, 0, 0, 0, 0, 0, 0)[:6])


@given(st.integers(0, 500), st.lists(WORDS, min_size=6, max_size=6))
def test_filter_answers_each_call_as_the_policy_says(number: int, arguments: list[int]) -> None:
    rule = POLICY.get(NAMES.get(number, ""))
    expected = rule.action(arguments) if rule else KILL if number in NAMES else None

    found = bpf.run(PROGRAM, number, X86_64, arguments)

    assert found == expected or (expected is None and found in (KILL, ENOSYS))


@pytest.mark.skipif(not HEADER.exists(), reason="needs the kernel's headers")
def test_numbers_are_the_kernels() -> None:
    found = re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())

    assert found
    assert {name: SYSTEM_CALLS[name] for name, _ in found} == {n: int(v) for n, v in found}


def test_calls_of_other_abis_end_the_process() -> None:
    assert bpf.run(PROGRAM, 0, I386, (0,) * 6) == KILL
    assert bpf.run(PROGRAM, 0x4000_0000 | SYSTEM_CALLS["read"], X86_64, (0,) * 6) == KILL


def test_calls_of_later_kernels_do_not_exist() -> None:
    assert bpf.run(PROGRAM, 499, X86_64, (0,) * 6) == ENOSYS


@pytest.mark.parametrize(
    "name",
    [
        *("execve", "execveat", "fork", "vfork", "ptrace", "socket", "connect", "bpf", "unshare"),
        *("io_uring_setup", "io_uring_enter", "mount", "setns", "process_vm_writev", "seccomp"),
        *("perf_event_open", "userfaultfd", "keyctl", "personality", "shmat", "pkey_mprotect"),
        *("pidfd_getfd", "memfd_secret", "remap_file_pages", "process_madvise", "reboot"),
        *("socketpair", "bind", "listen", "accept4", "sendto", "sendmsg", "recvfrom", "recvmsg"),
        *("rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal", "setuid"),
    ],
)
def test_calls_that_no_machine_makes_end_the_process(name: str) -> None:
    assert answer(name) == KILL


def test_machine_with_sockets_uses_those_it_has_and_reaches_for_no_others() -> None:
    code = filter_for(sockets=True)

    def given(name: str) -> int:
        return bpf.run(code, SYSTEM_CALLS[name], X86_64, (0,) * 6)

    assert {given(one) for one in ("accept4", "recvmsg", "sendto", "shutdown")} == {ALLOW}
    assert {given(one) for one in ("socket", "connect", "bind", "listen", "execve")} == {KILL}
    assert given("openat") == EPERM


@pytest.mark.parametrize("name", ["open", "openat", "openat2", "unlink", "rename", "stat", "chmod"])
def test_calls_that_name_files_are_refused(name: str) -> None:
    assert answer(name) == EPERM


def test_check_for_others_fits_all_but_its_values() -> None:
    rule = Rule("", KILL, (Check(0, (1, 2, 3), others=True),))
    numbers = {"kill": 62}
    code = program({"kill": rule}, numbers, architecture=X86_64, foreign_numbers=0x4000_0000)

    answers = [bpf.run(code, 62, X86_64, (value, 0, 0, 0, 0, 0)) for value in range(5)]

    assert answers == [ALLOW, KILL, KILL, KILL, ALLOW]


def test_memory_is_never_executable() -> None:
    assert answer("mmap", 0, 4096, 3) == ALLOW
    assert answer("mmap", 0, 4096, 5) == EPERM
    assert answer("mprotect", 0, 4096, 7) == EPERM


def test_memory_is_given_back_and_no_page_is_taken_from_the_host_or_shared() -> None:
    assert answer("madvise", 0, 4096, 4) == ALLOW  # MADV_DONTNEED
    assert answer("madvise", 0, 4096, 100) == EPERM  # MADV_HWPOISON
    assert answer("madvise", 0, 4096, 101) == EPERM  # MADV_SOFT_OFFLINE
    assert answer("madvise", 0, 4096, 12) == EPERM  # MADV_MERGEABLE
    assert answer("madvise", 0, 4096, 17) == EPERM  # MADV_DODUMP


def test_threads_can_be_made_and_processes_cannot() -> None:
    assert answer("clone", 0x3D0F00) == ALLOW
    assert answer("clone", 0x3D0F00 & ~0x10000) == KILL  # without CLONE_THREAD
    assert answer("clone", 0x3D0F00 | 0x2000_0000) == KILL  # with CLONE_NEWPID
    assert answer("clone", 0x1200011) == KILL
    assert answer("clone3") == ENOSYS


def test_kvm_makes_no_other_machine_and_no_other_memory() -> None:
    assert answer("ioctl", 5, 0xAE80) == ALLOW  # KVM_RUN
    assert answer("ioctl", 5, 0xAE01) == KILL  # KVM_CREATE_VM
    assert answer("ioctl", 5, 0xAE41) == KILL  # KVM_CREATE_VCPU
    assert answer("ioctl", 5, 0x4020AE46) == KILL  # KVM_SET_USER_MEMORY_REGION


def test_nobody_types_into_the_users_terminal() -> None:
    assert answer("ioctl", 0, 0x5401) == ALLOW  # TCGETS
    assert answer("ioctl", 0, 0x5412) == EPERM  # TIOCSTI
    assert answer("ioctl", 0, 0x541C) == EPERM  # TIOCLINUX


def test_signals_go_to_this_process_alone() -> None:
    assert answer("tgkill", os.getpid(), 1, 10) == ALLOW
    assert answer("kill", os.getpid(), 19) == ALLOW
    assert answer("kill", 1, 9) == KILL
    assert answer("kill", 0, 20) == ALLOW  # SIGTSTP to the job, for Ctrl-Z
    assert answer("kill", 0, 9) == KILL
    assert answer("kill", 1, 20) == KILL
    assert answer("kill", (1 << 64) - 1, 20) == KILL
    assert answer("tkill", os.getpid(), 9) == KILL
    assert answer("tgkill", 1, 1, 9) == KILL


def test_no_descriptor_sends_signals_or_watches_files() -> None:
    assert answer("fcntl", 5, 4) == ALLOW  # F_SETFL
    assert answer("fcntl", 5, 8) == EPERM  # F_SETOWN
    assert answer("fcntl", 5, 10) == EPERM  # F_SETSIG
    assert answer("fcntl", 5, 15) == EPERM  # F_SETOWN_EX
    assert answer("fcntl", 5, 1024) == EPERM  # F_SETLEASE
    assert answer("fcntl", 5, 1026) == EPERM  # F_NOTIFY


def test_the_most_frequent_call_is_looked_for_first() -> None:
    steps = next(iter(POLICY)), next(iter(RUNNING_REQUESTS)).name

    assert steps == ("ioctl", "KVM_RUN")
