"""Chapter 8: a calculator as a device."""

import struct
from typing import Any, Final

from virtio import VirtioDevice
from virtio.testing import Bench
from vmm.course.missing import Step, function, need

_WHAT: Final = "a class on Device"


def check(mine: Any, step: Step) -> None:
    """Send requests, whole and in pieces."""
    device = function(mine, "Calculator", _WHAT)()
    need(isinstance(device, VirtioDevice), f"Calculator is not {_WHAT}")
    need(device.device_id == 42, f"device_id is {device.device_id}, must be 42")
    need(len(device.queue_max_sizes) == 1, "the device has not one queue: decorate one method")
    bench = Bench(device)
    _expect(bench, [_request("+", 2, 3)], [9], (0, 5), "2 + 3")
    _expect(bench, [_request("*", 6, 7)], [9], (0, 42), "6 * 7")
    step("it adds and multiplies")
    large = 0xFFFF_FFFF
    _expect(bench, [_request("*", large, large)], [9], (0, large * large), "a result of 64 bits")
    pieces = [bytes([one]) for one in _request("+", 20, 30)]
    _expect(bench, pieces, [1, 3, 5], (0, 50), "a request and an answer in pieces")
    step("it takes requests however they are cut")
    _expect(bench, [_request("-", 5, 3)], [9], (1, 0), "the operation '-'")
    _expect(bench, [b"+\x01"], [9], (1, 0), "a request of two bytes")
    step("it refuses what is no request")
    used = bench.request([_request("+", 1, 1)], [3])
    need(used.length == 3, f"for 3 bytes of room {used.length} are told, must be 3")
    used = bench.request([_request("+", 1, 1)], [64])
    need(used.length == 9, f"for 64 bytes of room {used.length} are told, must be 9")
    step("it tells how much it wrote")
    counted = int.from_bytes(bench.device.read_config(0, 4), "little")
    need(counted == 6, f"the configuration field counts {counted} answers, must be 6")
    step("its configuration counts the answers")


def _request(operation: str, one: int, other: int) -> bytes:
    return struct.pack("<cII", operation.encode(), one, other)


def _expect(
    bench: Bench, readable: list[bytes], writable: list[int], wanted: tuple[int, int], what: str
) -> None:
    used = bench.request(readable, writable)
    need(used.length > 0, f"{what}: nothing was written: return what chain.write() returns")
    need(used.length == 9, f"{what}: the handler returned {used.length}, must be 9 bytes written")
    status, result = struct.unpack("<BQ", used.data[:9])
    found = f"status {status}, result {result}"
    need((status, result) == wanted, f"{what}: {found}; must be {wanted[0]} and {wanted[1]}")
