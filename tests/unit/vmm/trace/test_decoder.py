"""Names in the place of numbers: registers, words of features, places behind a BAR."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from transport import VirtioMmio
from transport.testing import RecordingLine
from virtio.entropy import Entropy
from virtio.testing import ManualLoop, flat_memory
from vmm.bus import Bus
from vmm.hardware import Hardware
from vmm.trace.decoder import Decoder
from vmm.trace.events import Access
from vmm.trace.names import request_of

BASE = 0xD0000000


@pytest.fixture
def decoder() -> Any:
    transport = VirtioMmio(
        Entropy(), flat_memory((0, 1 << 16)), RecordingLine(), ManualLoop(), name="entropy"
    )
    mmio, ports = Bus("mmio"), Bus("ports")
    mmio.add(BASE, 0x1000, transport, "entropy")
    ports.add(0x3F8, 8, transport, "serial")
    hardware = SimpleNamespace(transports=[transport], mmio=mmio, ports=ports, slots=())
    with transport:
        yield Decoder(cast(Hardware, hardware))


def details(decoder: Decoder, address: int, value: int, *, write: bool, port: bool = False) -> str:
    reason = "io" if port else "mmio"
    return decoder.event((0, Access, 0, "", -1, reason, 10, address, 4, value, write)).details


def test_registers_and_their_values_have_names(decoder: Decoder) -> None:
    assert details(decoder, BASE + 0x70, 3, write=True) == "Status = ACKNOWLEDGE DRIVER"
    assert details(decoder, BASE + 0x50, 1, write=True) == "QueueNotify = 1"
    assert details(decoder, BASE + 0x60, 1, write=False) == "InterruptStatus -> used buffers"
    assert details(decoder, 0x3FD, 0x60, write=False, port=True) == "LSR -> 0x60"
    assert details(decoder, 0x80, 0, write=True, port=True) == "0x80 = 0x0"


def test_a_word_of_features_has_the_names_of_the_word_that_was_selected(decoder: Decoder) -> None:
    assert details(decoder, BASE + 0x14, 1, write=True) == "DeviceFeaturesSel = 1"
    assert details(decoder, BASE + 0x10, 1, write=False) == "DeviceFeatures -> VERSION_1"
    assert details(decoder, BASE + 0x20, 1 << 29, write=True) == "DriverFeatures = EVENT_IDX"
    assert details(decoder, BASE + 0x24, 0xFFFF_FFFF, write=True).startswith("DriverFeaturesSel")
    assert details(decoder, BASE + 0x20, 5, write=True) == "DriverFeatures = 0x5"


@pytest.mark.parametrize(
    ("device", "queue", "head", "word"),
    [
        (2, 0, bytes(16), ("read", "8 sectors at 0")),
        (2, 0, bytes([4]) + bytes(15), ("flush", "")),
        (2, 0, bytes([99]) + bytes(15), ("type-99", "")),
        (2, 0, b"short", ("", "")),
        (26, 1, bytes(4) + bytes([26, 0, 0, 0]), ("init", "")),
        (26, 1, b"\xff" * 16, ("type-4294967295", "")),
        (1, 1, b"", ("send", "")),
    ],
)
def test_requests_have_the_word_for_what_they_ask(
    device: int, queue: int, head: bytes, word: tuple[str, str]
) -> None:
    assert request_of(device, queue, head, 16, 4097) == word
