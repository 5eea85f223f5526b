"""A hostile driver and an honest device on one ring, as a script of bytes says.

Input: 10 bytes of set-up (features, size, start position, three areas), 24 steps of 4 bytes
(what, argument, 16-bit value), then the content of guest memory from address 0 on. The steps of
the driver are stores of 16 bits anywhere in the rings; those of the device use the public interface
of a queue. After each step the promises of a queue are checked:

* a breach raises DriverError, then the same again, and nothing is written any more;
* only the areas that belong to the device are ever written;
* chains have the lengths and the number of descriptors that they say;
* what is given back is published at once, in turn with IN_ORDER;
* saved, pickled and restored it goes on, and hands out again what was not given back.
"""

import pickle
import struct
from dataclasses import dataclass
from typing import Protocol

from tests.fuzz.targets import assert_one_line
from tests.fuzz.targets.ram import FuzzRam
from virtio.errors import DriverError
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.state import QueueLayout, QueueState

EVENT_IDX, INDIRECT, IN_ORDER = 1 << 29, 1 << 28, 1 << 35

SET_UP = struct.Struct("<BBHHHH")
STEP = struct.Struct("<BBH")
STEPS_MAX = 24
SCRIPT_END = SET_UP.size + STEPS_MAX * STEP.size

# Two regions that adjoin in the guest only, a hole, and one above 4 GiB.
RAM = FuzzRam((0, 0x800), (0x800, 0x400), (1 << 32, 0x100))


class Form(Protocol):
    """What differs between the two forms of a ring."""

    features: int

    def size(self, byte: int) -> int:
        """Return the queue size that a byte of the input means."""

    def laps(self, size: int) -> int:
        """Return how many positions there are before they repeat."""

    def device_areas(self, layout: QueueLayout, features: int) -> list[tuple[int, int]]:
        """Return address and length of the areas that the device may write."""

    def publish(self, run: "Run", argument: int, value: int) -> None:
        """Make something available."""

    def assert_published(self, run: "Run", first: int) -> None:
        """Assert that the driver sees all that was given back, ``first`` being the position."""


@dataclass(slots=True)
class Taken:
    """A chain that the device has; ``chain`` is None until a restored queue hands it out again."""

    chain: DescriptorChain | None
    head_index: int
    descriptors: tuple[tuple[int, int, int], ...]
    slots: int
    done: bool = False


class Run:
    """One input's queue, and what is known about it."""

    def __init__(self, form: Form, layout: QueueLayout, features: int, start: int) -> None:
        self.form = form
        self.layout = layout
        self.features = features
        self.position = start
        self.queue = self._queue(QueueState(0, layout, features, start, start, 0, (), None))
        self.taken: list[Taken] = []
        self.breach: str | None = None
        self.interrupts = 0
        self.areas = [
            (at := RAM.offset_of(address), at + length)
            for address, length in form.device_areas(layout, features)
        ]
        self.steps = (
            *(self.nothing, self.publish, self.pop, self.pop_many, self.complete_oldest),
            *(self.complete_newest, self.complete_all, self.enable, self.disable, self.store),
            *(self.restore, self.use_chain, self.reset),
        )

    def step(self, what: int, argument: int, value: int) -> None:
        """Do one step of the script."""
        self.steps[what % len(self.steps)](argument, value)

    # The driver

    def nothing(self, argument: int, value: int) -> None:
        """Let a step pass."""

    def publish(self, argument: int, value: int) -> None:
        """Make something available."""
        self.form.publish(self, argument, value)

    def store(self, argument: int, value: int) -> None:
        """Store 16 bits somewhere in the first 512 bytes."""
        RAM.memory.view(2 * argument, 2)[:] = value.to_bytes(2, "little")

    # The device

    def pop(self, argument: int, value: int) -> None:
        """Take one chain."""
        self._pop(1)

    def pop_many(self, argument: int, value: int) -> None:
        """Take up to eight chains."""
        self._pop(argument % 8 + 1, many=True)

    def complete_oldest(self, argument: int, value: int) -> None:
        """Give back the chain that was taken first."""
        self._complete([one for one in self.taken if one.chain and not one.done][:1], value)

    def complete_newest(self, argument: int, value: int) -> None:
        """Give back the chain that was taken last."""
        self._complete([one for one in self.taken if one.chain and not one.done][-1:], value)

    def complete_all(self, argument: int, value: int) -> None:
        """Give back everything, the last one first."""
        self._complete([one for one in self.taken[::-1] if one.chain and not one.done], value)

    def enable(self, argument: int, value: int) -> None:
        """Ask for notifications."""
        before = RAM.snapshot()
        self.queue.enable_notification()
        self._assert_kept(before)

    def disable(self, argument: int, value: int) -> None:
        """Ask for none."""
        before = RAM.snapshot()
        self.queue.disable_notification()
        self._assert_kept(before)

    def use_chain(self, argument: int, value: int) -> None:
        """Read and write through the chain that was taken last, and take its status byte."""
        for one in self.taken[-1:]:
            if one.chain is None or one.done:
                continue
            chain, writable = one.chain, one.chain.writable_length
            assert len(chain.read(value, argument)) <= value
            assert chain.write(b"\x5a" * (argument + 1), value) <= argument + 1
            status = chain.split_status()
            assert (status is None) == (writable == 0)
            assert chain.writable_length == sum(map(len, chain.writable))
        RAM.assert_canaries()

    def restore(self, argument: int, value: int) -> None:
        """Save the queue, and go on with another one as a new process would."""
        before = RAM.snapshot()
        state = self.queue.state()
        self.queue.reset()
        self.queue = self._queue(pickle.loads(pickle.dumps(state)))
        assert self.queue.state() == state, "a restored queue differs from what was saved"
        for one in self.taken:
            one.chain = None
        RAM.assert_kept(before)

    def reset(self, argument: int, value: int) -> None:
        """Reset the queue; its chains must be harmless then."""
        before = RAM.snapshot()
        self.queue.reset()
        for one in self.taken:
            if one.chain is not None:
                one.chain.complete(0)
                assert one.chain.write(b"late") == 0
        assert self.queue.pop() is None
        RAM.assert_kept(before)
        self.taken, self.breach = [], None
        self.queue = self._queue(self._fresh())

    # Helpers

    def _fresh(self) -> QueueState:
        start = self.position
        return QueueState(0, self.layout, self.features, start, start, 0, (), None)

    def _queue(self, state: QueueState) -> Queue:
        queue = Queue.from_state(RAM.memory, state)
        queue.interrupt = self._interrupt
        return queue

    def _interrupt(self) -> None:
        self.interrupts += 1

    def _assert_kept(self, before: bytes) -> None:
        RAM.assert_kept(before, () if self.breach else self.areas)

    def _pop(self, limit: int, *, many: bool = False) -> None:
        before = RAM.snapshot()
        try:
            one = None if many else self.queue.pop()
            chains = self.queue.pop_many(limit) if many else [one] if one else []
        except DriverError as error:
            self._break(error)
        else:
            assert self.breach is None or not chains, "a broken queue hands out chains"
            for chain in chains:
                self._take(chain)
        RAM.assert_kept(before)
        assert sum(one.slots for one in self.taken) <= self.layout.size

    def _break(self, error: DriverError) -> None:
        assert_one_line(error)
        assert self.breach in (None, str(error)), "a broken queue changed its mind"
        self.breach = str(error)

    def _take(self, chain: DescriptorChain) -> None:
        assert 0 <= chain.head_index < self.layout.size
        assert 1 <= len(chain.descriptors) <= 1024
        assert sum(map(len, chain.readable)) == chain.readable_length
        assert sum(map(len, chain.writable)) == chain.writable_length
        assert all(view.readonly for view in chain.readable)
        for one in self.taken:
            if one.chain is None and not one.done:
                assert one.head_index == chain.head_index
                assert one.descriptors == tuple(chain.descriptors)
                one.chain = chain
                return
        descriptors = tuple(chain.descriptors)
        self.taken.append(Taken(chain, chain.head_index, descriptors, chain.slots))

    def _complete(self, group: list[Taken], value: int) -> None:
        if not group:
            return
        before = RAM.snapshot()
        pairs = [(one.chain, value % (one.chain.room + 1)) for one in group if one.chain]
        self.queue.add_used_many(pairs)
        if self.breach is None:
            self._assert_given_back(group)
        else:
            self.taken = [one for one in self.taken if one not in group]
        self.queue.notify()
        self._assert_kept(before)

    def _assert_given_back(self, group: list[Taken]) -> None:
        for one in group:
            one.done = True
        visible = group
        if self.features & IN_ORDER:
            waiting = next((at for at, one in enumerate(self.taken) if not one.done), None)
            visible = self.taken[:waiting]
        self.taken = [one for one in self.taken if not any(one is seen for seen in visible)]
        first = self.position
        slots = sum(one.slots for one in visible)
        self.position = (first + slots) % self.form.laps(self.layout.size)
        if visible:
            self.form.assert_published(self, first)


def run(form: Form, data: bytes) -> None:
    """Run one input on a form of the ring."""
    if len(data) < SET_UP.size:
        return
    flags, size, start, *areas = SET_UP.unpack_from(data)
    features = form.features
    for bit, feature in enumerate((EVENT_IDX, INDIRECT, IN_ORDER)):
        features |= feature if flags >> bit & 1 else 0
    layout = QueueLayout(form.size(size), *(area & 0xFFF for area in areas))
    RAM.load(data[SCRIPT_END:])
    try:
        one = Run(form, layout, features, start % max(1, form.laps(layout.size)))
    except DriverError as error:
        assert_one_line(error)
        return
    script = data[SET_UP.size : SCRIPT_END]
    for step in STEP.iter_unpack(script[: len(script) // STEP.size * STEP.size]):
        one.step(*step)
    one.reset(0, 0)
    RAM.assert_canaries()
