"""The entropy device. VIRTIO 1.4 "Entropy Device"."""

import random
import tracemalloc
from collections.abc import Callable

import pytest

from tests.spec.devices import EVERY_RING
from tests.spec.rig import Form, Rig
from virtio.entropy import Entropy
from virtio.memory import FlatMemory
from virtio.rate import TokenBucket
from virtio.testing import Segment, flat_memory

RigMaker = Callable[..., Rig]


class Source:
    """A source of the letter r, with a supply that can run dry; ``asked`` notes every demand."""

    def __init__(self, supply: int = 1 << 30) -> None:
        self.supply = supply
        self.asked: list[int] = []

    def __call__(self, wanted: int) -> bytes:
        self.asked.append(wanted)
        granted = min(wanted, self.supply)
        self.supply -= granted
        return b"r" * granted


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def rig(make_rig: RigMaker, source: Source, form: Form) -> Rig:
    """A live entropy device over ``source``."""
    rig = make_rig(Entropy(source=source, ring_features=EVERY_RING))
    rig.start(form=form)
    return rig


@pytest.mark.spec("RNG-01")
@pytest.mark.parametrize(
    "cut", [(1,), (2,), (4096,), (65536,), (1, 1), (1, 100, 3), (4095, 1, 1024)]
)
def test_a_buffer_is_filled_however_it_is_scattered(rig: Rig, cut: tuple[int, ...]) -> None:
    used = rig.request(0, ((), cut))

    assert (used.length, used.data) == (sum(cut), b"r" * sum(cut))


@pytest.mark.spec("RNG-01")
def test_the_length_of_a_short_fill_is_exact(rig: Rig, source: Source) -> None:
    source.supply = 5

    used = rig.request(0, ((), (3, 5)))

    assert (used.length, used.data) == (5, b"rrrrr\xa5\xa5\xa5")


@pytest.mark.spec("RNG-01")
def test_of_a_huge_buffer_at_least_one_byte_is_filled_and_counted(rig: Rig) -> None:
    used = rig.request(0, ((), (131072,)))

    assert 1 <= used.length == used.data.count(b"r") == used.data.find(b"\xa5")


@pytest.mark.spec("RNG-02")
def test_nothing_comes_back_while_the_source_is_dry(rig: Rig, source: Source) -> None:
    source.supply = 0
    rig.add(0, ((), (8,)))

    rig.serve()
    rig.loop.advance(3600)

    assert (rig.rings[0].collect(), rig.driver.interrupt_status) == ([], 0)


@pytest.mark.spec("RNG-02")
def test_buffers_that_waited_are_filled_and_announced_when_there_are_bytes(
    rig: Rig, source: Source
) -> None:
    source.supply = 0
    tokens = [rig.add(0, ((), (8,))) for _ in range(3)]
    rig.serve()
    rig.loop.advance(3600)

    source.supply = 1 << 20
    rig.loop.advance(3600)

    used = rig.rings[0].collect()
    assert [(one.token, one.length) for one in used] == [(token, 8) for token in tokens]
    assert rig.driver.interrupt_status == 1


@pytest.mark.spec("RNG-02")
def test_a_single_byte_ends_the_waiting_of_one_buffer_only(rig: Rig, source: Source) -> None:
    source.supply = 0
    first, _ = (rig.add(0, ((), (8,))) for _ in range(2))
    rig.serve()

    source.supply = 1
    rig.loop.advance(3600)

    assert [(one.token, one.length) for one in rig.rings[0].collect()] == [(first, 1)]


@pytest.mark.spec("RNG-03")
def test_a_buffer_that_is_only_readable_returns_with_nothing_written(rig: Rig) -> None:
    address = rig.rings[0].arena.allocate(8)
    rig.rings[0].write_bytes(address, b"untouch!")
    rig.rings[0].add_segments([Segment(address, 8, False)])
    rig.driver.notify(0)

    rig.serve()

    [used] = rig.rings[0].collect()
    assert used.length == 0
    assert rig.rings[0].read_bytes(address, 8) == b"untouch!"


@pytest.mark.spec("RNG-03")
def test_of_a_mixed_buffer_the_writable_part_alone_is_filled(rig: Rig) -> None:
    address = rig.rings[0].arena.allocate(16)
    rig.rings[0].write_bytes(address, b"untouch!--------")
    rig.rings[0].add_segments([Segment(address, 8, False), Segment(address + 8, 4, True)])
    rig.driver.notify(0)

    rig.serve()

    [used] = rig.rings[0].collect()
    assert used.length == 4
    assert rig.rings[0].read_bytes(address, 16) == b"untouch!rrrr----"


@pytest.mark.spec("RNG-03")
@pytest.mark.parametrize("writable", [True, False])
def test_an_empty_buffer_returns_with_nothing_written(rig: Rig, writable: bool) -> None:
    rig.rings[0].add_segments([Segment(0x100000, 0, writable)])
    rig.driver.notify(0)

    rig.serve()

    [used] = rig.rings[0].collect()
    assert used.length == 0


@pytest.mark.spec("RNG-03")
def test_a_buffer_without_room_holds_up_none_behind_it(rig: Rig) -> None:
    rig.add(0, ((b"x",), ()))
    rig.add(0, ((), (8,)))

    rig.serve()

    assert [one.length for one in rig.rings[0].collect()] == [0, 8]


@pytest.mark.spec("RNG-04")
def test_every_buffer_gets_bytes_of_its_own(make_rig: RigMaker) -> None:
    rig = make_rig(Entropy())
    rig.start()

    data = {rig.request(0, ((), (32,))).data for _ in range(100)}

    assert len(data) == 100


@pytest.mark.spec("RNG-04")
def test_the_bytes_come_from_no_generator_that_can_be_seeded(make_rig: RigMaker) -> None:
    rig = make_rig(Entropy())
    rig.start()

    random.seed(7)
    first = rig.request(0, ((), (32,))).data
    random.seed(7)

    assert rig.request(0, ((), (32,))).data != first


@pytest.mark.spec("RNG-04")
def test_two_machines_from_one_saved_state_get_different_bytes(make_rig: RigMaker) -> None:
    origin = make_rig(Entropy())
    origin.start()
    address = origin.rings[0].arena.allocate(32)
    origin.rings[0].add_segments([Segment(address, 32, True)])
    state, memory = origin.transport.state(), bytes(origin.memory.view(0, 4 << 20))
    clones = [make_rig(Entropy(), FlatMemory([(0, bytearray(memory))])) for _ in range(2)]

    for clone in clones:
        clone.transport.restore(state)
        clone.serve()

    data = {bytes(clone.memory.view(address, 32)) for clone in clones}
    assert len(data - {b"\xa5" * 32, bytes(32)}) == 2


@pytest.mark.spec("RNG-05")
def test_a_claim_of_4_gib_takes_no_memory(make_rig: RigMaker, source: Source, form: Form) -> None:
    memory = flat_memory((0, 68 << 20))
    rig = make_rig(Entropy(source=source, ring_features=EVERY_RING), memory)
    rig.start(1 << 28, form, size=256)
    rig.rings[0].add_segments([Segment(4 << 20, 64 << 20, True)] * 63, indirect=True)
    rig.driver.notify(0)
    tracemalloc.start()

    rig.serve()

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (source.asked, peak < 1 << 20) == ([65536], True)
    assert bytes(memory.view(4 << 20, 65537)[-2:]) == b"r\0"


@pytest.mark.spec("RNG-05")
def test_no_more_bytes_are_given_than_the_rate_allows(make_rig: RigMaker, form: Form) -> None:
    device = Entropy(source=Source(), bytes_per_second=100, ring_features=EVERY_RING)
    rig = make_rig(device)
    device.rate = TokenBucket(100, 100, lambda: rig.loop.now)
    rig.start(form=form)
    tokens = [rig.add(0, ((), (60,))) for _ in range(3)]

    rig.serve()
    at_once = rig.rings[0].collect()
    rig.loop.advance(0.5)
    later = rig.rings[0].collect()

    assert [(one.token, one.length) for one in at_once + later] == list(
        zip(tokens, [60, 40, 50], strict=True)
    )
    assert len(at_once) == 2


@pytest.mark.spec("RNG-06")
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_all_of_the_configuration_reads_0(rig: Rig, width: int) -> None:
    rig.write_config(0, b"\xff" * width)

    values = {rig.read_config(offset, width) for offset in range(0, 0xF00, width)}

    assert values == {bytes(width)}
