"""Chapter 12: a driver, and each step of the initialization that it may leave out.

The steps are those of VIRTIO 1.4 "Driver Requirements: Device Initialization".
"""

from typing import Any, Final

from virtio import DescriptorChain, Device, queue
from vmm.course.board import Board
from vmm.course.missing import Step, function, need

STATUS, ACCEPTED, ACCEPTED_WORD, READY, KICK = 0x070, 0x020, 0x024, 0x044, 0x050
QUEUE_SIZE, INTERRUPT, INTERRUPT_DONE = 0x038, 0x060, 0x064
AREAS: Final = {0x080: "descriptor table", 0x090: "available ring", 0x0A0: "used ring"}

BYTES: Final = bytes(range(0x31, 0x41))


class Known(Device):
    """Random numbers of which the checker knows what they are."""

    device_id = 4

    @queue(size=8)
    def requestq(self, chain: DescriptorChain) -> int:
        return chain.write(BYTES)


class Other(Known):
    """A device that is not what the driver is for."""

    device_id = 42


class _Watched(Board):
    """A board that notes each access: (is it a write, offset, value)."""

    def __init__(self, device: Device) -> None:
        self.log: list[tuple[bool, int, int]] = []
        super().__init__(device)

    def read(self, offset: int) -> int:
        value = super().read(offset)
        self.log.append((False, offset, value))
        return value

    def write(self, offset: int, value: int) -> None:
        self.log.append((True, offset, value))
        super().write(offset, value)

    def written(self, offset: int) -> list[int]:
        """Return the values that were written to a register."""
        return [value for is_write, at, value in self.log if is_write and at == offset]

    def position(self, offset: int, value: int) -> int:
        """Return where in the log a value was first written; its end if it never was."""
        wanted = (True, offset, value)
        return self.log.index(wanted) if wanted in self.log else len(self.log)


def check(mine: Any, step: Step) -> None:
    """Let the driver run on two devices, and look at what it did."""
    fetch = function(mine, "fetch", "fetch(board)")
    with _Watched(Other()) as board:
        answer = fetch(board)
        need(answer is None, f"for device 42 fetch returned {answer!r}, must be None")
        need(not board.written(STATUS), "the status of device 42 was written: its ID is not 4")
    step("another device is left alone")
    with _Watched(Known()) as board:
        answer = fetch(board)
        _look(board, step)
        need(isinstance(answer, bytes), f"fetch returned {answer!r}, must be the bytes")
        wanted = f"must be those in the buffer, {BYTES!r}"
        need(answer == BYTES, f"fetch returned {answer!r}, {wanted}")
    step("the bytes arrived")


def _look(board: _Watched, step: Step) -> None:
    statuses = board.written(STATUS)
    need(statuses[:1] == [0], "the first write to the status is not 0: reset the device")
    steps = ((1, "ACKNOWLEDGE (1)"), (3, "ACKNOWLEDGE and DRIVER (3)"))
    for value, name in steps:
        need(value in statuses, f"the status was never {name}")
    step("the driver introduced itself")
    need(bool(board.written(ACCEPTED)), "no features were accepted: write 0x024 and 0x020")
    need(
        _accepted(board) >> 32 & 1 == 1,
        "VERSION_1 (bit 32, so bit 0 of word 1) was not accepted",
    )
    need(0xB in statuses, "the status was never 11: FEATURES_OK (8) is missing")
    agreed = board.position(STATUS, 0xB)
    need(board.position(ACCEPTED, 1) < agreed, "features were accepted after FEATURES_OK")
    asked = [at for at, one in enumerate(board.log) if one[:2] == (False, STATUS) and at > agreed]
    need(bool(asked), "the status was not read behind FEATURES_OK: the device may have refused")
    step("the features are settled")
    sizes = board.written(QUEUE_SIZE)
    need(bool(sizes), "the queue has no size: write 0x038")
    need(0 < sizes[-1] <= 8, f"the queue has size {sizes[-1]}, at most 8 (see 0x034)")
    for register, name in AREAS.items():
        need(bool(board.written(register)), f"the {name} has no address: write {register:#x}")
    need(1 in board.written(READY), "the queue is not ready: write 1 to 0x044")
    need(0xF in statuses, "the status was never 15: DRIVER_OK (4) is missing")
    live = board.position(STATUS, 0xF)
    need(board.position(READY, 1) < live, "the queue was made ready after DRIVER_OK")
    step("the queue is ready, and the device works")
    need(0 in board.written(KICK), "the device was not told of the chain: write 0 to 0x050")
    need(board.position(KICK, 0) > live, "the kick came before DRIVER_OK")
    _ring(board)
    need(1 in board.written(INTERRUPT_DONE), "the interrupt was not acknowledged: write 0x064")
    need(Board.read(board, INTERRUPT) == 0, "an interrupt is left: write what 0x060 reads to 0x064")
    step("the chain was served, and its interrupt acknowledged")


def _accepted(board: _Watched) -> int:
    """Return the set that the driver accepted, as the words say that it wrote one by one."""
    words = {0: 0, 1: 0}
    selected = 0
    for is_write, offset, value in board.log:
        if is_write and offset == ACCEPTED_WORD:
            selected = value
        elif is_write and offset == ACCEPTED:
            words[selected] = value
    return words[0] | words[1] << 32


def _ring(board: _Watched) -> None:
    used = board.written(0x0A0)[-1]
    index = int.from_bytes(board.memory[used + 2 : used + 4], "little")
    available = board.written(0x090)[-1]
    offered = int.from_bytes(board.memory[available + 2 : available + 4], "little")
    need(offered > 0, "the index of the available ring is 0: no chain was made available")
    need(
        index > 0,
        "the device used no chain: are the addresses of the three parts right?",
    )
    length = int.from_bytes(board.memory[used + 8 : used + 12], "little")
    need(length > 0, "the device found no room: is the buffer writable (flag 2)?")
    need(length == 16, f"the buffer had room for {length} bytes, must be 16")
