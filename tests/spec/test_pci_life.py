"""A function that is unplugged, and one that goes on from a saved state."""

import os
import pickle

import pytest

from tests.spec.conftest import PciRigMaker
from tests.spec.devices import EVERY_RING, DeviceCase, Gadget
from tests.spec.pci import PciRig, make_bus
from tests.spec.rig import Form
from transport.pci.function import FunctionState
from virtio.errors import ConfigurationError

HELLO = ((b"hello",), (5,))
MEMORY, MASTER = 0x2, 0x4
ELSEWHERE = 0x50_0000_0000


def go_on(rig: PciRig, new: PciRig) -> None:
    """Bring a new function, over the same memory, into the state of another one."""
    function = pickle.loads(pickle.dumps(rig.function.state()))
    transport = pickle.loads(pickle.dumps(rig.transport.state()))
    new.function.restore(function)
    new.transport.restore(transport)
    new.rings = rig.rings
    new.pci.base = rig.pci.base


def configuration(rig: PciRig) -> bytes:
    return b"".join(rig.function.read_config(offset, 4) for offset in range(0, 0x100, 4))


# Unplugging


@pytest.mark.spec("PCI-63")
def test_unplugged_function_answers_nothing_any_more(
    device_case: DeviceCase, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make())
    rig.start_with_msix()
    rig.add(device_case.queue, device_case.request)
    memory = bytes(rig.memory.view(0, 1 << 20))

    rig.bus.remove(rig.slot)
    rig.transport.close()
    rig.transport.interrupts.config()
    rig.transport.service()

    assert rig.pci.config(0x00) == rig.pci.config(0x40) == 0xFFFF_FFFF
    assert (rig.pci.status, rig.read_bar(0x4000, 4)) == (0xFF, b"\xff" * 4)
    assert rig.notifications.attached == {}
    assert rig.messages.sent == []
    assert rig.messages.closed
    assert bytes(rig.memory.view(0, 1 << 20)) == memory


@pytest.mark.spec("PCI-63")
def test_unplugging_gives_everything_back(make_pci_rig: PciRigMaker) -> None:
    bus = make_bus()
    memory = make_pci_rig(Gadget()).memory
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(200):
        rig = PciRig(Gadget(), memory, bus)
        rig.start()
        assert rig.request(0, HELLO).data == b"hello"
        rig.close()

    assert len(os.listdir("/proc/self/fd")) == before
    assert list(bus.slots) == [0]
    assert bus.claims() == []


@pytest.mark.spec("PCI-63")
def test_line_of_an_unplugged_function_falls(pci_gadget: PciRig) -> None:
    pci_gadget.start()
    pci_gadget.request(0, HELLO)
    assert pci_gadget.line.level

    pci_gadget.close()

    assert not pci_gadget.line.level


def test_slot_that_is_taken_is_refused(pci_gadget: PciRig) -> None:
    with pytest.raises(ConfigurationError, match="PCI slot 3: must be 0 to 31 and free"):
        pci_gadget.bus.add(3, pci_gadget.function)


# Saved state


@pytest.mark.spec("PCI-64")
def test_function_goes_on_with_a_moved_bar_and_masked_pending_vectors(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    rig.switch_on(ELSEWHERE)
    vector = device_case.queue + 1
    rig.pci.mask(vector)
    rig.request(device_case.queue, device_case.request)
    rig.pci.set_config(rig.pci.structures[5].capability + 8, 0x1000)
    new = make_pci_rig(device_case.make(ring_features=EVERY_RING), rig.memory)

    go_on(rig, new)

    assert configuration(new) == configuration(rig)
    assert new.transport.state() == rig.transport.state()
    assert new.bus.claims() == [(ELSEWHERE, 0x8000)]
    assert sorted(new.notifications.attached) == sorted(rig.notifications.attached)
    assert new.messages.sent == []
    new.pci.mask(vector, masked=False)
    assert new.messages.vectors == [vector]
    assert new.request(device_case.queue, device_case.request).length == device_case.answer
    assert new.messages.vectors == [vector] * 2


@pytest.mark.spec("PCI-64")
def test_kick_that_came_before_is_served_after(
    device_case: DeviceCase, form: Form, make_pci_rig: PciRigMaker
) -> None:
    rig = make_pci_rig(device_case.make(ring_features=EVERY_RING))
    rig.start(form=form)
    rig.use_msix()
    token = rig.add(device_case.queue, device_case.request)
    new = make_pci_rig(device_case.make(ring_features=EVERY_RING), rig.memory)

    go_on(rig, new)
    new.serve()

    assert [used.token for used in new.rings[device_case.queue].collect()] == [token]
    assert new.messages.vectors == [device_case.queue + 1]


@pytest.mark.spec("PCI-64")
def test_level_of_the_line_is_that_of_isr(pci_gadget: PciRig, make_pci_rig: PciRigMaker) -> None:
    pci_gadget.start()
    pci_gadget.request(0, HELLO)
    new = make_pci_rig(Gadget(), pci_gadget.memory)

    go_on(pci_gadget, new)

    assert (new.line.level, new.pci.isr, new.line.level) == (True, 1, False)


@pytest.mark.spec("PCI-64")
def test_sizing_goes_on_where_it_was(pci_gadget: PciRig, make_pci_rig: PciRigMaker) -> None:
    pci_gadget.start()
    pci_gadget.pci.command = 0
    pci_gadget.pci.set_config(0x10, 0xFFFF_FFFF)
    new = make_pci_rig(Gadget(), pci_gadget.memory)

    go_on(pci_gadget, new)

    assert new.pci.config(0x10) == 0xFFFF_8004
    assert new.bus.claims() == []
    new.switch_on()
    assert new.request(0, HELLO).data == b"hello"


@pytest.mark.spec("PCI-64")
def test_function_without_bus_master_waits_for_it_also_afterwards(
    pci_gadget: PciRig, make_pci_rig: PciRigMaker
) -> None:
    pci_gadget.start_with_msix()
    pci_gadget.pci.command = MEMORY
    token = pci_gadget.add(0, HELLO)
    new = make_pci_rig(Gadget(), pci_gadget.memory)

    go_on(pci_gadget, new)
    new.serve()
    waiting = new.rings[0].collect()
    new.pci.command = MEMORY | MASTER
    new.serve()

    assert waiting == []
    assert [used.token for used in new.rings[0].collect()] == [token]


@pytest.mark.spec("PCI-64")
def test_window_makes_no_access_when_it_is_restored(
    pci_gadget: PciRig, make_pci_rig: PciRigMaker
) -> None:
    pci_gadget.start()
    window = pci_gadget.pci.structures[5].capability
    pci_gadget.pci.set_config(window + 8, 0x14)
    pci_gadget.pci.set_config(window + 12, 1)
    pci_gadget.pci.set_config(window + 16, 0x0F)
    new = make_pci_rig(Gadget(), pci_gadget.memory)
    accesses: list[int] = []
    new.window.write = lambda offset, data: accesses.append(offset)  # type: ignore[method-assign]

    go_on(pci_gadget, new)

    assert accesses == []


@pytest.mark.spec("PCI-64")
def test_generation_goes_on(pci_gadget: PciRig, make_pci_rig: PciRigMaker) -> None:
    device = pci_gadget.device
    assert isinstance(device, Gadget)
    pci_gadget.start()
    pci_gadget.read_config(0, 4)
    before = pci_gadget.pci.common(0x15, 1)
    device.counter += 1
    new = make_pci_rig(Gadget(), pci_gadget.memory)

    go_on(pci_gadget, new)

    assert new.pci.common(0x15, 1) == before + 1


WRONG_INTERRUPTS = {
    "isr": {"isr": 4},
    "no-number": {"config_vector": "1"},
    "vector": {"config_vector": 4},
    "queue-vector": {"queue_vectors": [0, 1, 0x7FF]},
    "queues": {"queue_vectors": [0, 1]},
    "table": {"table": bytes(48)},
    "pending": {"pending": 1 << 4},
    "negative": {"pending": -1},
    "part": {"status": 1},
}


@pytest.mark.spec("PCI-64")
@pytest.mark.parametrize("change", WRONG_INTERRUPTS.values(), ids=WRONG_INTERRUPTS)
def test_interrupts_that_cannot_have_been_saved_are_refused(
    pci_gadget: PciRig, change: dict[str, object]
) -> None:
    pci_gadget.start()
    state = pci_gadget.transport.state()
    wrong = state._replace(interrupts=state.interrupts | change)

    with pytest.raises(ConfigurationError, match=r"^saved "):
        pci_gadget.transport.restore(wrong)


@pytest.mark.spec("PCI-64")
@pytest.mark.parametrize("length", [0, 255, 257])
def test_configuration_space_of_another_size_is_refused(pci_gadget: PciRig, length: int) -> None:
    state = pci_gadget.function.state()

    with pytest.raises(ConfigurationError, match="configuration has"):
        pci_gadget.function.restore(state._replace(configuration=bytes(length)))


@pytest.mark.spec("PCI-64")
def test_state_of_a_function_that_is_none_of_virtio_is_refused(pci_gadget: PciRig) -> None:
    with pytest.raises(ConfigurationError, match="no configuration generation"):
        pci_gadget.function.restore(FunctionState(bytes(256)))
