"""A queue against a model of driver and device that must agree with it after every step."""

import pickle
from collections import deque
from dataclasses import dataclass, field
from struct import Struct

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.fuzz.machines import machine_settings
from virtio.errors import InternalError
from virtio.memory import FlatMemory
from virtio.testing import POISON, PackedDriver, QueueDriver, QueueFull, SplitDriver, Used
from virtio.virtqueue.batch import ChainBatch
from virtio.virtqueue.chain import DescriptorChain
from virtio.virtqueue.queue import Queue
from virtio.virtqueue.request import Request
from virtio.virtqueue.state import QueueLayout, QueueState

INDIRECT, EVENT_IDX, RING_PACKED, IN_ORDER = 1 << 28, 1 << 29, 1 << 34, 1 << 35
RAM_BYTES = 1 << 15
HEADER = Struct("4s")

sizes = st.lists(st.integers(0, 24), max_size=3)
contents = st.lists(st.binary(max_size=24), max_size=3)
features = st.sets(st.sampled_from([INDIRECT, EVENT_IDX, IN_ORDER])).map(sum)


@dataclass(eq=False)
class Supplied:
    """A chain as the driver made it, and what has become of it."""

    token: int
    readable: bytes
    room: int
    entries: int
    written: bytes = b""
    length: int | None = None

    def used(self) -> Used:
        """Return what the driver must get back."""
        assert self.length is not None
        data = self.written + bytes([POISON]) * (self.room - len(self.written))
        return Used(self.token, self.length, data)


@dataclass
class Model:
    """Where every request is; positions count ring entries, without end."""

    laps: int
    event: int
    collected: int
    used: int
    signalled: int
    hidden: list[Supplied] = field(default_factory=list)
    available: deque[Supplied] = field(default_factory=deque)
    taken: list[Supplied] = field(default_factory=list)
    replay: list[Supplied] = field(default_factory=list)
    visible: list[Supplied] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """Whatever a well-behaved driver and any device do, nothing is lost, doubled or reordered."""

    packed: bool

    @initialize(size=st.integers(0, 15), chosen=features, start=st.integers(65500, 65535))
    def make(self, size: int, chosen: int, start: int) -> None:
        """Choose form and features; the ring starts shortly before its positions wrap."""
        self.size = size + 1 if self.packed else 1 << size % 5
        self.features = chosen | (RING_PACKED if self.packed else 0)
        self.start = 0 if self.packed else start
        self.rounds = start % (2 * self.size) if self.packed else 0
        self.ram = bytearray(RAM_BYTES)
        self.memory = FlatMemory([(0, self.ram)])
        self.stale: list[DescriptorChain] = []
        self.begin()

    def begin(self) -> None:
        """Set up driver, queue and model from the beginning."""
        self.ram[:] = bytes(RAM_BYTES)
        self.driver = self.make_driver()
        layout = QueueLayout(*self.driver.layout)
        start = self.start
        state = QueueState(0, layout, self.features, start, start, 0, (), None)
        self.go_on_from(state)
        self.chains: dict[Supplied, DescriptorChain] = {}
        laps = 2 * self.size if self.packed else 1 << 16
        event = -1 if self.features & EVENT_IDX else 0
        self.model = Model(laps, event, start, start, start)
        self.armed = self.declined = False
        self.want_interrupts()
        self.go_round(self.rounds)
        self.notify()
        self.want_interrupts()

    def make_driver(self) -> QueueDriver:
        """Return the driver's side of the ring."""
        event_idx, indirect = bool(self.features & EVENT_IDX), bool(self.features & INDIRECT)
        if self.packed:
            return PackedDriver(self.memory, self.size, event_idx=event_idx, indirect=indirect)
        return SplitDriver(
            self.memory, self.size, event_idx=event_idx, indirect=indirect, start=self.start
        )

    def go_on_from(self, state: QueueState) -> None:
        """Make the queue."""
        self.queue = Queue.from_state(self.memory, state)
        self.interrupts = 0
        self.queue.interrupt = self.count_interrupt

    def count_interrupt(self) -> None:
        """Count one."""
        self.interrupts += 1

    # The driver

    @rule(readable=contents, writable=sizes, indirect=st.booleans(), publish=st.booleans())
    def add(
        self, readable: list[bytes], writable: list[int], indirect: bool, publish: bool
    ) -> None:
        """Make a chain."""
        if not readable and not writable:
            writable = [8]
        indirect = indirect and bool(self.features & INDIRECT)
        try:
            token = self.driver.add(readable, writable, indirect=indirect, publish=False)
        except QueueFull:
            return
        entries = len(readable) + len(writable) if self.packed and not indirect else 1
        request = Supplied(token, b"".join(readable), sum(writable), entries)
        self.model.hidden.append(request)
        if publish:
            self.publish()

    @rule(header=st.binary(min_size=4, max_size=4), data=st.binary(max_size=8), out=st.booleans())
    def add_framed(self, header: bytes, data: bytes, out: bool) -> None:
        """Make a chain as most drivers cut a request."""
        given, room = ([header, data], [1]) if out and data else ([header], [len(data), 1])
        self.add(given, room if room[0] else [1], indirect=False, publish=True)

    @rule()
    def publish(self) -> None:
        """Show the device what was added, and kick if it wants that."""
        self.driver.publish()
        kick = self.driver.should_kick()
        model = self.model
        if model.hidden and self.armed:
            assert kick, "the device waits for a notification that never comes"
        if self.packed or not self.features & EVENT_IDX:
            assert not (kick and self.declined), "the device said that it need not be told"
        self.armed = self.armed and not model.hidden
        model.available.extend(model.hidden)
        model.hidden.clear()

    @rule()
    def collect(self) -> None:
        """Take back what was used: exactly that, in that order, with exactly those bytes."""
        found, model = self.driver.collect(), self.model
        assert found == [request.used() for request in model.visible]
        model.collected += sum(request.entries for request in model.visible)
        model.visible.clear()

    @rule()
    def want_interrupts(self) -> None:
        """Ask for an interrupt at the next chain."""
        self.driver.want_interrupts()
        self.wants, self.model.event = True, self.model.collected

    @rule()
    def suppress_interrupts(self) -> None:
        """Ask for none."""
        self.driver.suppress_interrupts()
        self.wants, self.model.event = False, self.model.collected - 1

    @rule(count=st.integers(1, 16))
    def interrupt_after(self, count: int) -> None:
        """Ask for an interrupt some entries later."""
        if self.features & EVENT_IDX:
            count = min(count, self.size)
            self.driver.interrupt_after(count)
            self.wants, self.model.event = True, self.model.collected + count - 1

    # The device

    @rule()
    def pop(self) -> None:
        """Take one chain."""
        with self.driver_areas_kept():
            chain = self.queue.pop()
        self.check_taken([] if chain is None else [chain], 1)

    @rule(limit=st.integers(0, 8))
    def pop_many(self, limit: int) -> None:
        """Take several."""
        with self.driver_areas_kept():
            chains = self.queue.pop_many(limit)
        self.check_taken(chains, limit)

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """Give some of the chains back, in any order, and notify if that is wanted."""
        if not self.chains:
            return
        group = data.draw(st.lists(st.sampled_from(list(self.chains)), unique=True, max_size=4))
        pairs = []
        for request in group:
            chain = self.chains.pop(request)
            request.length = data.draw(st.integers(0, request.room))
            request.written = data.draw(st.binary(min_size=request.length, max_size=request.room))
            cut = data.draw(st.integers(0, len(request.written)))
            assert chain.write(request.written[cut:], cut) == len(request.written) - cut
            assert chain.write(request.written[:cut]) == cut
            pairs.append((chain, request.length))
        with self.driver_areas_kept():
            self.queue.add_used_many(pairs)
        self.move_visible(group)
        for chain, _ in pairs:
            with pytest.raises(InternalError):
                self.queue.add_used(chain, 0)

    @rule(limit=st.integers(1, 8), rounds=st.integers(1, 3), data=st.data())
    def exchange(self, limit: int, rounds: int, data: st.DataObject) -> None:
        """Take batches, each for the one before, in the ways that devices answer them."""
        batch, lengths, given = ChainBatch(self.queue), list[int | None](), list[Supplied]()
        for left in [limit] * rounds + [0]:
            before = self.interrupts
            with self.driver_areas_kept():
                batch = self.queue.exchange(batch, lengths, left, header_bytes=HEADER.size)
            self.move_visible(given)
            self.check_notified(before)
            assert len(batch) <= left
            if left and not batch:
                assert not self.model.replay
                assert not self.model.available
            requests = self.next_taken(len(batch))
            lengths, given = self.answer(batch, requests, data) if batch else ([], [])

    def answer(
        self, batch: ChainBatch, requests: list[Supplied], data: st.DataObject
    ) -> tuple[list[int | None], list[Supplied]]:
        """Answer each request of a batch, or leave some for later; returns those answered, too."""
        assert batch.readable_lengths == [len(request.readable) for request in requests]
        assert batch.writable_lengths == [request.room for request in requests]
        way = data.draw(st.sampled_from(["lengths", "frames", "chains", "some"]))
        lengths: list[int | None] = [data.draw(st.integers(0, one.room)) for one in requests]
        if way == "frames":
            frames = batch.requests(HEADER)
            lengths = [self.finish(*pair) for pair in zip(frames, requests, strict=True)]
        if way in ("chains", "some"):
            for chain, request in zip(batch, requests, strict=True):
                self.check_chain(chain, request)
                if way == "some" and request is requests[0]:
                    self.chains[request], lengths[0] = chain, None
                    continue
                request.written = b"answer"[: request.room]
                assert chain.write(request.written) == len(request.written)
        for request, length in zip(requests, lengths, strict=True):
            request.length = length
        return lengths, [request for request in requests if request.length is not None]

    def finish(self, frame: Request, request: Supplied) -> int:
        """Look at a frame, and answer it with a status like the memory that nobody wrote."""
        if not request.room:
            assert frame.header is None
            return frame.finish(POISON, 0)
        if len(request.readable) >= HEADER.size:
            assert frame.header == (request.readable[: HEADER.size],)
            assert b"".join(frame.data_out) == request.readable[HEADER.size :]
            assert frame.data_out_bytes == len(request.readable) - HEADER.size
        else:
            assert frame.header is None
        assert sum(map(len, frame.data_in)) == frame.data_in_bytes == request.room - 1
        request.written = b"frame"[: frame.data_in_bytes]
        assert frame.write(b"frame") == len(request.written)
        length = frame.finish(POISON, len(request.written))
        assert length == len(request.written) + (request.room <= len(b"frame") + 1)
        return length

    @rule()
    def notify(self) -> None:
        """Tell the driver, exactly when it asked for that."""
        before = self.interrupts
        with self.driver_areas_kept():
            self.queue.notify()
        self.check_notified(before)

    def check_notified(self, before: int) -> None:
        """The driver has been told, or not, as it wanted."""
        model = self.model
        count = model.used - model.signalled
        wanted = self.wants
        if self.features & EVENT_IDX and (wanted or not self.packed):
            wanted = (model.event - model.signalled) % model.laps < count
        assert self.interrupts - before == int(wanted and count > 0)
        model.signalled = model.used

    @rule()
    def enable_notification(self) -> None:
        """Ask to be told; whatever is there already is announced."""
        with self.driver_areas_kept():
            more = self.queue.enable_notification()
        assert more == bool(self.model.replay or self.model.available)
        self.armed, self.declined = not self.model.available, False

    @rule()
    def disable_notification(self) -> None:
        """Ask not to be told."""
        with self.driver_areas_kept():
            self.queue.disable_notification()
        self.armed, self.declined = False, True

    # Life and death

    @rule()
    def save_and_restore(self) -> None:
        """Go on with another queue, made from the pickled state."""
        saved = self.queue.state()
        before = bytes(self.ram)
        self.retire()
        self.go_on_from(pickle.loads(pickle.dumps(saved)))
        assert self.queue.state() == saved
        assert self.ram == before
        self.model.replay = [one for one in self.model.taken if one.length is None]

    @precondition(lambda self: self.model.taken)
    @rule()
    def reset(self) -> None:
        """Reset the queue in the middle of its work, and begin again."""
        before = bytes(self.ram)
        self.retire()
        assert self.queue.pop() is None
        assert self.ram == before
        self.begin()

    def retire(self) -> None:
        """End the queue; its chains go stale."""
        self.queue.reset()
        self.stale = (self.stale + list(self.chains.values()))[-4:]
        self.chains = {}

    @invariant()
    def stale_chains_are_harmless(self) -> None:
        """Chains of a queue that was reset write nothing, and come back to nobody."""
        for chain in self.stale:
            before = bytes(self.ram)
            assert chain.write(b"late") == 0
            chain.complete(0)
            assert self.ram == before

    @rule(rounds=st.integers(1, 20))
    def go_round(self, rounds: int) -> None:
        """With nothing on its way, send single chains through: the ring wraps."""
        model = self.model
        busy = model.taken or model.available or model.hidden or model.visible
        for _ in range(0 if busy else rounds):
            self.add([b"round"], [], indirect=False, publish=True)
            self.pop()
            self.give_back_all()
            self.collect()

    @rule(limit=st.integers(1, 8))
    def serve(self, limit: int) -> None:
        """Do what most devices do."""
        self.pop_many(limit)
        self.give_back_all()
        self.notify()

    def give_back_all(self) -> None:
        """Complete everything with no byte written."""
        group = list(self.chains)
        for request in group:
            request.length = 0
            self.queue.add_used(self.chains.pop(request), 0)
        self.move_visible(group)

    # Helpers

    def check_taken(self, chains: list[DescriptorChain], limit: int) -> None:
        """Compare what the queue handed out with what it had to."""
        expected = self.next_taken(limit)
        assert len(chains) == len(expected)
        for chain, request in zip(chains, expected, strict=True):
            self.check_chain(chain, request)
            self.chains[request] = chain

    def next_taken(self, limit: int) -> list[Supplied]:
        """Return the next requests that the queue has to hand out; it has."""
        model = self.model
        expected = model.replay[:limit]
        del model.replay[:limit]
        while len(expected) < limit and model.available:
            expected.append(model.available.popleft())
            model.taken.append(expected[-1])
        return expected

    def check_chain(self, chain: DescriptorChain, request: Supplied) -> None:
        """Compare a chain with what the driver made."""
        assert chain.read(1000) == request.readable
        assert chain.read(5, 7) == request.readable[7:12]
        assert chain.readable_length == len(request.readable)
        assert chain.writable_length == request.room

    def move_visible(self, group: list[Supplied]) -> None:
        """Let the driver see the requests in ``group``, or those whose turn has come."""
        model = self.model
        if self.features & IN_ORDER:
            waiting = (at for at, one in enumerate(model.taken) if one.length is None)
            group = model.taken[: next(waiting, None)]
        model.taken = [one for one in model.taken if one not in group]
        model.visible += group
        model.used += sum(request.entries for request in group)

    def driver_areas_kept(self) -> "Kept":
        """Watch the driver's areas of the ring while the device works."""
        return Kept(self)


class Kept:
    """Asserts that the device wrote nothing but what is its own: the ring, or the used ring."""

    def __init__(self, machine: QueueMachine) -> None:
        self.machine = machine

    def __enter__(self) -> None:
        self.before = self._content()

    def __exit__(self, *error: object) -> None:
        assert self._content() == self.before

    def _content(self) -> bytes:
        """Return RAM without what the device may write."""
        size, table, _, device = self.machine.driver.layout
        ram = bytearray(self.machine.ram)
        areas = [(device, 6 + 8 * size)]
        if self.machine.packed:
            areas = [(table, 16 * size), (device, 4)]
        for address, length in areas:
            ram[address : address + length] = bytes(length)
        return bytes(ram)


class SplitMachine(QueueMachine):
    """The split form."""

    packed = False


class PackedMachine(QueueMachine):
    """The packed form, of any size from 1 to 16."""

    packed = True


TestSplitQueue = SplitMachine.TestCase
TestSplitQueue.settings = machine_settings(150, 60)
TestPackedQueue = PackedMachine.TestCase
TestPackedQueue.settings = machine_settings(150, 60)
