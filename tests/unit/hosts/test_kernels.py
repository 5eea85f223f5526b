"""The table of kernels: rows that are made anew replace theirs, and the others stay as they are."""

import pytest

from tests.hosts.kernels import all_rows, merged, read, written
from tests.hosts.rows import Result, Row
from virtio.errors import ConfigurationError

COMPLETE = Result(
    row="debian:6.12/pci/4",
    host="hardware",
    release="6.12.9-cloud-amd64",
    done=("shell", "disk", "rng", "agent", "processors", "snapshot", "restore"),
    exits=70_123,
)
FAILED = Result(row="debian/mmio/1", host="hardware", done=("shell",), exits=7, fault="no /dev/vda")
ABSENT = Result(row="ours:6.12/pci/1", host="hardware", fault="apt knows no linux-source-6.12")
EMULATED = Result(row="ours/mmio/1", host="emulated", release="6.1.0", done=("shell", "rng"))
ALL = [ABSENT, FAILED, COMPLETE, EMULATED]


def test_table_tells_what_was_written() -> None:
    assert sorted(read(written(ALL))) == sorted(ALL)


def test_lines_have_the_order_of_hosts_and_kernels() -> None:
    rows = [(one.host, one.row) for one in read(written([EMULATED, COMPLETE, FAILED, ABSENT]))]

    assert rows == [(one.host, one.row) for one in ALL]


def test_fault_with_a_bar_leaves_the_columns_alone() -> None:
    (found,) = read(written([FAILED._replace(fault="a | b")]))

    assert found.fault == "a / b"


def test_row_made_anew_replaces_the_one_of_its_host() -> None:
    new = FAILED._replace(done=(), fault="never started")
    elsewhere = FAILED._replace(host="emulated")

    assert merged([FAILED, COMPLETE, elsewhere], [new]) == [new, COMPLETE, elsewhere]


def test_damaged_line_is_refused() -> None:
    text = written([FAILED]).replace("| no /dev/vda |", "|")

    with pytest.raises(ConfigurationError, match="this line has not"):
        read(text)


@pytest.mark.parametrize("text", ["debian", "debian/mmio", "debian/usb/1", "debian/pci/many", ""])
def test_what_is_no_row_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be KERNEL/TRANSPORT/CPUS"):
        Row.parse(text)


def test_every_kernel_is_tried_by_each_transport_and_number_of_processors() -> None:
    assert [str(row) for row in all_rows(["ours"])] == [
        *("ours/mmio/1", "ours/mmio/4", "ours/mmio-acpi/1"),
        *("ours/mmio-acpi/4", "ours/pci/1", "ours/pci/4"),
    ]
