"""What a module says of itself is read from its file, which anybody may have written."""

import pytest

from tests.unit.vmm.image.module_files import module_file
from virtio.errors import ConfigurationError
from vmm.image.modinfo import module_info


def test_a_module_tells_its_needs_and_its_release() -> None:
    data = module_file("virtio_net", "net-failover,virtio", softdep="pre: crc32c-intel post: x")
    info = module_info(data, "here")

    assert info.name == "virtio_net"
    assert info.depends == ("net_failover", "virtio")
    assert info.softly == ("crc32c_intel",)
    assert info.release == "6.1.0-9-test"


def test_a_module_that_needs_nothing_says_so() -> None:
    assert module_info(module_file("virtio_ring"), "here").depends == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no kernel module"),
        (b"#!/bin/sh\n" * 20, "is no kernel module"),
        (module_file("x", machine=183), "for another processor (ELF machine 183)"),
        (module_file("x")[:-1], "its sections are not in the file"),
        (module_file("x")[:40] + b"\xff" * 8 + module_file("x")[48:], "its sections are not"),
        (module_file("x")[:62] + b"\x09\0" + module_file("x")[64:], "its sections are not"),
        (module_file("x").replace(b".modinfo", b".modlost"), "has no section .modinfo"),
        (module_file("x")[:-40] + b"\xff" * 8 + module_file("x")[-32:], "a section ends at byte"),
    ],
)
def test_what_is_no_module_of_this_processor_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^here: ") as caught:
        module_info(data, "here")

    assert message in str(caught.value)
