"""A driver that breaks the rules, in a real guest: its device answers rightly, the others go on.

The guest's Linux gives one device up, ``guest-images/hostile.c`` abuses it from user space, then
Linux takes it back and uses it.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.guest.shell import Shell
from vmm.config import MachineConfig
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import End
from vmm.image import build_initramfs
from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled

pytestmark = pytest.mark.timeout(1500)

DEADLINE = 900.0
MEBIBYTE = 1 << 20
LINUX_MEMORY = 128 * MEBIBYTE
ARENA = 8 * MEBIBYTE
EVERY_FORM_OF_RING = 1 << 28 | 1 << 29 | 1 << 32 | 1 << 34 | 1 << 40
CONTENT = random.Random(1).randbytes(256 << 10)

BROKEN_EARLY = "status=4b ready=0 used=0 interrupt=0 seen=0"
BROKEN = "status=4f ready=1 used=0 interrupt=2 seen=0"
SERVED = "status=0f ready=1 used=1 interrupt=1 seen=0"
SERVED_TWICE = "status=0f ready=1 used=2 interrupt=1 seen=0"
NOT_READY = "ready=0 used=0 interrupt=0 seen=0"
RESET = f"status=00 {NOT_READY}"

REGISTERS_OUT_OF_TURN = {
    "driver_ok_first": f"status=00 {NOT_READY}",
    "features_without_driver": f"status=01 {NOT_READY}",
    "driver_ok_without_features": f"status=03 {NOT_READY}",
    "undefined_bits": f"status=03 {NOT_READY}",
    "device_bit": f"status=03 {NOT_READY}",
    "no_version_1": f"status=03 {NOT_READY}",
    "unknown_feature": f"status=03 {NOT_READY}",
    "feature_word_7": f"status=03 {NOT_READY}",
    "cleared_bits": SERVED,
    "late_features": SERVED,
    "failed": "status=8f ready=1 used=0 interrupt=0 seen=0",
    "early_notify": SERVED,
    "absent_queues": SERVED,
    "queue_not_ready": f"status=0f {NOT_READY}",
    "empty_queue": SERVED,
    "rewrite_live": SERVED,
    "ready_before_features": f"status=03 {NOT_READY}",
    "ready_again": SERVED_TWICE,
    "absent_queue": SERVED,
    "late_queue": SERVED,
    "queue_reset_unasked": SERVED,
    "reset_and_reuse": SERVED,
    "odd_reads": f"status=0b {NOT_READY}",
    "odd_status_writes": SERVED,
    "across_the_end": SERVED,
    "sixteen_bytes": SERVED,
    "string_copy": SERVED,
    "read_and_write": SERVED,
}

# What each breaches, as the log tells it.
IMPOSSIBLE_RINGS = {
    "size_0": "SPL-02",
    "size_3": "SPL-02",
    "size_doubled": "SPL-02",
    "size_huge": "SPL-02",
    "descriptors_misaligned": "SPL-03",
    "available_misaligned": "SPL-03",
    "used_misaligned": "SPL-03",
    "descriptors_in_hole": "SPL-04",
    "available_past_ram": "SPL-04",
    "used_wraps": "SPL-04",
}
BAD_REQUESTS = {
    "self_loop": "SPL-13",
    "two_cycle": "SPL-13",
    "next_past_table": "SPL-12",
    "head_past_table": "SPL-11",
    "index_jump": "SPL-10",
    "index_backwards": "SPL-10",
    "readable_after_writable": "SPL-17",
    "segment_in_hole": "SPL-15",
    "segment_wraps": "SPL-15",
    "too_many_bytes": "SPL-14",
    "table_unasked": "SPL-24",
    "table_with_next": "SPL-27",
    "nested_table": "SPL-28",
    "table_of_0": "SPL-29",
    "table_of_8": "SPL-29",
    "table_of_24": "SPL-29",
    "table_in_hole": "SPL-29",
    "table_too_short": "SPL-12",
    "table_loop": "SPL-13",
    "table_too_long": "SPL-20",
    "packed_endless": "PKD-12",
    "packed_unavailable": "PKD-12",
    "packed_table_in_list": "PKD-14",
    "packed_table_of_0": "PKD-14",
    "packed_table_of_24": "PKD-14",
    "packed_table_in_hole": "PKD-14",
    "packed_readable_after_writable": "SPL-17",
    "packed_segment_wraps": "SPL-15",
}


@dataclass(frozen=True)
class Target:
    """A device: where it is, and a command of which Linux's driver for it must make this output."""

    name: str
    window: int
    node: str
    driver: str
    command: str
    output: str


DISK = Target(
    name="block0",
    window=0xC000_1000,
    node="virtio0",
    driver="virtio_blk",
    command="dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | sha256sum",
    output=f"{hashlib.sha256(CONTENT).hexdigest()}  -",
)
RNG = Target(
    name="entropy",
    window=0xC000_3000,
    node="virtio2",
    driver="virtio_rng",
    command='hexdump -n 16 -e \'16/1 "%02x" "\\n"\' /dev/hwrng',
    output="(?!0{32})[0-9a-f]{32}",
)
EACH_TARGET = pytest.mark.parametrize(
    ("target", "other"), [(DISK, RNG), (RNG, DISK)], ids=["block", "entropy"]
)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    program = compiled(recipe_folder() / "hostile.c")
    if program is None:
        pytest.skip("gcc is not installed")
    disk = tmp_path_factory.mktemp("disks") / "disk.img"
    disk.write_bytes(CONTENT)
    config = MachineConfig(
        initrd=build_initramfs({"/bin/hostile": program}),
        cmdline=f"mem={LINUX_MEMORY}",
        memory_bytes=LINUX_MEMORY + ARENA,
        disks=(DiskConfig(str(disk), read_only=True),) * 2,
        ring_features=EVERY_FORM_OF_RING,
        sandbox="auto",
    )
    with pytest.MonkeyPatch.context() as patch:
        # These tests want every line of the log.
        patch.setattr("transport.report.LINES_PER_SECOND", 100_000)
        with Shell(config) as shell:
            yield shell
            assert shell.power_off().end is End.POWER_OFF


def abuse(shell: Shell, target: Target, other: Target, groups: str) -> str:
    """Return what the abuse of ``target`` printed; both devices work when it is over."""
    driver = f"/sys/bus/virtio/drivers/{target.driver}"
    output = shell.check(
        f"echo {target.node} > {driver}/unbind"
        f" && hostile {target.window:#x} {LINUX_MEMORY:#x} {groups}"
        f" && echo the other && {other.command}"
        f" && echo {target.node} > {driver}/bind"
        f" && echo the target && {target.command}",
        DEADLINE,
    )
    working = f"(.*)the other\n{other.output}\nthe target\n{target.output}"
    found = re.fullmatch(working, output, re.DOTALL)
    assert found is not None, output
    return found[1]


def answers(output: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+) (status=.*)$", output, re.MULTILINE))


def breaches(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """Return the item in each line of the log, all of which are about a breach by the driver."""
    pattern = rf"{name}: ([A-Z]+-\d+): queue 0: .*; the device needs a reset"
    found = [re.fullmatch(pattern, record.getMessage()) for record in caplog.records]
    assert None not in found, caplog.text
    return [match[1] for match in found if match is not None]


@EACH_TARGET
def test_registers_out_of_turn_and_in_odd_widths_do_no_harm(
    shell: Shell, target: Target, other: Target, caplog: pytest.LogCaptureFixture
) -> None:
    output = abuse(shell, target, other, "status notify queues widths")

    assert answers(output) == REGISTERS_OUT_OF_TURN
    assert breaches(caplog, target.name) == []


@EACH_TARGET
def test_impossible_rings_are_refused_and_the_log_says_why(
    shell: Shell, target: Target, other: Target, caplog: pytest.LogCaptureFixture
) -> None:
    output = abuse(shell, target, other, "geometry")

    assert answers(output) == dict.fromkeys(IMPOSSIBLE_RINGS, BROKEN_EARLY)
    assert breaches(caplog, target.name) == list(IMPOSSIBLE_RINGS.values())


@EACH_TARGET
def test_bad_requests_break_the_device_alone_and_the_log_says_why(
    shell: Shell, target: Target, other: Target, caplog: pytest.LogCaptureFixture
) -> None:
    output = abuse(shell, target, other, "chains indirect packed")

    assert answers(output) == dict.fromkeys(BAD_REQUESTS, BROKEN)
    assert breaches(caplog, target.name) == list(BAD_REQUESTS.values())


@EACH_TARGET
def test_good_requests_of_the_same_driver_are_served(
    shell: Shell, target: Target, other: Target, caplog: pytest.LogCaptureFixture
) -> None:
    output = abuse(shell, target, other, "good")

    assert answers(output) == {"good_table": SERVED, "good_packed": SERVED}
    assert breaches(caplog, target.name) == []


@EACH_TARGET
def test_storm_of_random_accesses_and_rings_leaves_a_working_device(
    shell: Shell, target: Target, other: Target, caplog: pytest.LogCaptureFixture
) -> None:
    output = abuse(shell, target, other, "storm")

    assert answers(output) == {
        "random_accesses": RESET,
        "random_rings": RESET,
        "afterwards": SERVED,
    }
    assert {"SPL-11", "SPL-15", "SPL-17", "SPL-29"} <= set(breaches(caplog, target.name))


@EACH_TARGET
def test_device_stopped_under_load_touches_nothing_any_more(
    shell: Shell, target: Target, other: Target, caplog: pytest.LogCaptureFixture
) -> None:
    output = abuse(shell, target, other, "reset")

    assert answers(output) == {
        "reset_under_load": RESET,
        "queue_reset_under_load": RESET,
        "ready_0_under_load": RESET,
        "afterwards": SERVED,
    }
    # The stop came at both times, in each of the three ways.
    both = r"# \d+ rounds, [1-9]\d* stopped before and [1-9]\d* after a request\n"
    assert len(re.findall(both, output)) == 3
    assert breaches(caplog, target.name) == []
