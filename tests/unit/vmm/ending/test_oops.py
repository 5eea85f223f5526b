"""The report on a panic has what the kernel printed of it, from its first line on."""

from vmm.ending.oops import LONGEST_LINES, printed_panic

OOPS = b"""\
[    1.000000] init: ready\r
[    2.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000\r
[    2.000001] RIP: 0010:sysrq_handle_crash+0x16/0x20\r
[    2.000002] RAX: 0000000000000000 RBX: 0000000000000001\r
[    2.000003] ---[ end trace 0000000000000000 ]---\r
[    2.000004] Kernel panic - not syncing: Fatal exception\r
[    2.000005] Kernel Offset: disabled\r
[    2.000006] ---[ end Kernel panic - not syncing: Fatal exception ]---\r
"""


def test_an_oops_is_shown_from_its_first_line_to_the_end_of_the_panic() -> None:
    lines = printed_panic(OOPS)

    assert lines == [line.rstrip("\r") for line in OOPS.decode().split("\n")[1:-2]]


def test_a_panic_without_an_oops_begins_with_its_own_words() -> None:
    output = b"hello\nKernel panic - not syncing: VFS: no root\nCall Trace:\n dump_stack+0x1\n"

    assert printed_panic(output) == [
        "Kernel panic - not syncing: VFS: no root",
        "Call Trace:",
        " dump_stack+0x1",
    ]


def test_the_last_panic_is_shown_escaped_and_not_all_that_follows() -> None:
    output = OOPS + b"Kernel panic - not syncing: \x1b[2Jagain\n" + b"noise\n" * 1000

    lines = printed_panic(b"x\n" * 100 + output)

    assert "Kernel panic - not syncing: \\x1b[2Jagain" in lines
    assert len(lines) <= LONGEST_LINES


def test_there_is_nothing_to_show_without_a_panic() -> None:
    assert printed_panic(b"echo: BUG: this is not one\n") == []
