"""The state of a whole machine beside its memory and its disks, as one plain value.

Taken while no vCPU runs and no device works; brought into the hardware of a new machine.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

from transport.state import TransportState
from virtio.errors import ConfigurationError, HostError
from virtio.saved import Length
from vmm.hardware import Hardware
from vmm.slots import MAX_SLOTS, Slot
from vmm.vcpus import Vcpus
from vmm.x86 import PlatformState, VcpuState

_NOT_TAKEN: Final = (errno.EINVAL, errno.E2BIG, errno.ERANGE, errno.EFAULT)


@dataclass(frozen=True, slots=True)
class MachineState:
    """All parts of a machine at one moment between two instructions of each of its vCPUs.

    ``transports`` are in the order in which the configuration makes the devices; each holds its
    device and its queues. ``slots`` are the places of these, in that order, then the spare ones.
    """

    vcpus: tuple[VcpuState, ...]
    platform: PlatformState
    transports: tuple[TransportState, ...]
    slots: Annotated[tuple[Slot, ...], Length(MAX_SLOTS)]


def machine_state(
    hardware: Hardware, vcpus: Vcpus, transports: Sequence[TransportState]
) -> MachineState:
    """Return the state of a machine whose vCPUs are held and whose transports are frozen."""
    platform = hardware.platform
    states = vcpus.call(platform.vcpu_state)
    return MachineState(tuple(states), platform.state(), tuple(transports), hardware.slots)


def restore_machine(
    state: MachineState, cpus: int, hardware: Hardware, vcpus: Vcpus, resources: ExitStack
) -> None:
    """Create the ``cpus`` vCPUs of a new machine and bring all of it into a saved state.

    The platform comes before the virtio devices, as a device raises its pending interrupt again.
    Raises :class:`ConfigurationError` for a state that does not fit the machine or this host.
    """
    transports = hardware.ordered_transports
    check_machine_state(state, cpus=cpus, transports=len(transports))
    for index, one in enumerate(state.vcpus):
        vcpu = vcpus.add(hardware, resources)
        with taken_over(f"processor {index}"):
            hardware.platform.restore_vcpu(vcpu, one)
    with taken_over("chips"):
        hardware.platform.restore(state.platform)
    for transport, saved in zip(transports, state.transports, strict=True):
        transport.restore(saved)


def check_machine_state(state: MachineState, *, cpus: int, transports: int) -> None:
    """Raise :class:`ConfigurationError` unless a state has the parts that its machine has.

    Each part is checked where it is taken over.
    """
    for name, count, needed in (
        ("processors", len(state.vcpus), cpus),
        ("virtio devices", len(state.transports), transports),
    ):
        if count != needed:
            raise ConfigurationError(f"saved machine: {count} {name}, it has {needed}")


@contextmanager
def taken_over(part: str) -> Iterator[None]:
    """Turn KVM's refusal of a saved value into :class:`ConfigurationError`: the state is at fault.

    Other errors, such as a lack of memory, are the host's.
    """
    try:
        yield
    except HostError as error:
        if error.errno not in _NOT_TAKEN:
            raise
        raise ConfigurationError(f"saved {part}: this host does not take it: {error}") from None
