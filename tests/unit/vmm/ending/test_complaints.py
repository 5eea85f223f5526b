"""Reports of a kernel are found by the form that Linux prints them in, and whole."""

import pytest

from vmm.ending.complaints import LONGEST_REPORT, MOST_REPORTS, find_complaints

WARNING = """\
------------[ cut here ]------------
refcount_t: underflow; use-after-free.
WARNING: CPU: 0 PID: 69 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110
Modules linked in:
CPU: 0 PID: 69 Comm: mount Tainted: G S                 6.1.192-pyvmm #1
RIP: 0010:refcount_warn_saturate+0xba/0x110
Call Trace:
 <TASK>
 ? __warn+0x6c/0xc0
 </TASK>
---[ end trace 0000000000000000 ]---
"""

KASAN = """\
==================================================================
BUG: KASAN: slab-out-of-bounds in kmalloc_oob_right+0x65/0x75
Write of size 1 at addr ffff8800693bc5d3 by task sh/129

Call Trace:
 dump_stack+0x12/0x20

The buggy address belongs to the object at ffff8800693bc580
==================================================================
"""

LOCKDEP = """\
======================================================
WARNING: possible circular locking dependency detected
6.1.0 #1 Not tainted
------------------------------------------------------
sh/54 is trying to acquire lock:
Call Trace:
 <TASK>
 check_noncircular+0x12/0x30
 </TASK>
"""

OOPS = """\
BUG: kernel NULL pointer dereference, address: 0000000000000000
#PF: supervisor read access in kernel mode
Oops: 0000 [#1] PREEMPT
RIP: 0010:f+0x1/0x2
Call Trace:
 g+0x1/0x2
---[ end trace 0000000000000000 ]---
"""


def printed(*texts: str) -> list[str]:
    """Return lines as a kernel prints them, with their times."""
    lines = "".join(texts).splitlines()
    return [f"[{12 + at:5d}.000000] {line}" for at, line in enumerate(lines)]


@pytest.mark.parametrize("report", [WARNING, KASAN, LOCKDEP, OOPS])
def test_report_is_found_whole_between_other_lines(report: str) -> None:
    lines = printed("usb: fine\n", report, "vdb: 512 sectors\n")

    [found] = find_complaints(lines, timed=True)

    assert found.lines == lines[1:-1]
    assert not found.fatal


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 1 at kernel/fork.c:12 f+0x1/0x2",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:12]",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
        "watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "INFO: task sh:12 blocked for more than 120 seconds.",
        "BUG: scheduling while atomic: sh/12/0x00000002",
        "BUG: sleeping function called from invalid context at mm/slab.h:1",
        "BUG kmalloc-64 (Not tainted): Poison overwritten",
        "BUG: KCSAN: data-race in a / b",
        "[ BUG: Invalid wait context ]",
        "UBSAN: shift-out-of-bounds in f.c:1:2",
        "general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
        "Oops: general protection fault, maybe for address 0x1: 0000 [#1] SMP",
        "list_del corruption, ffff888 is LIST_POISON1",
        "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        'irq 5: nobody cared (try booting with the "irqpoll" option)',
        "sysfs: cannot create duplicate filename '/class/x'",
        "unregister_netdevice: waiting for lo to become free. Usage count = 2",
    ],
)
def test_each_kind_of_report_is_known_by_its_first_line(line: str) -> None:
    assert [one.title for one in find_complaints(printed(line + "\n", "fine\n"))] == [line]


@pytest.mark.parametrize(
    "line",
    [
        "[Firmware Bug]: TSC doesn't count with P0 frequency!",
        "Spectre V2 : WARNING: Unprivileged eBPF is enabled",
        "process 'BUG: ' started with executable stack",
        "BUG: hello[12]: segfault at 0 ip 00000000004 sp 0000 error 4 in x",
        "WARNING: me (54): drop_caches: 3",
        "Oops: x invoked oom-killer: gfp_mask=0x140cca",
        "virtio_blk virtio1: [vda] 512 512-byte logical blocks",
        "INFO: lockdep is turned off.",
    ],
)
def test_what_is_no_report_is_none(line: str) -> None:
    assert find_complaints(printed(line + "\n")) == []


def test_report_is_named_by_the_place_of_the_warning() -> None:
    [found] = find_complaints(printed(WARNING))

    assert found.title == WARNING.splitlines()[2]


def test_two_reports_are_two() -> None:
    titles = [one.title for one in find_complaints(printed(OOPS, WARNING, KASAN))]

    assert titles == [text.splitlines()[at] for text, at in ((OOPS, 0), (WARNING, 2), (KASAN, 1))]


def test_report_that_leads_to_a_panic_is_fatal() -> None:
    [found] = find_complaints(printed(OOPS, "Kernel panic - not syncing: Fatal exception\n"))

    assert found.fatal
    assert found.lines[-1].endswith("Kernel panic - not syncing: Fatal exception")


def test_lines_without_a_time_are_not_the_kernels() -> None:
    assert find_complaints(WARNING.splitlines(), timed=True) == []


def test_report_without_an_end_is_cut_and_escaped() -> None:
    frames = " f+0x1/0x2\n" * 10_000
    [found] = find_complaints(printed("BUG: \x1b[2J\n", "Call Trace:\n", frames))

    assert found.title == "BUG: \\x1b[2J"
    assert len(found.lines) <= LONGEST_REPORT


def test_kernel_that_complains_without_end_is_heard_a_while() -> None:
    assert len(find_complaints(printed("BUG: bad\n" * 100_000))) == MOST_REPORTS
