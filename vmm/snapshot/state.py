"""The state of a whole machine, as one plain value: what its memory and its disks do not hold."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from transport.state import TransportState
from virtio.errors import ConfigurationError, HostError
from vmm.x86 import PlatformState, VcpuState


@dataclass(frozen=True, slots=True)
class MachineState:
    """All parts of a machine at one moment between two instructions of each of its vCPUs.

    ``transports`` are in the order of the devices' windows; each holds its device and its queues.
    """

    vcpus: tuple[VcpuState, ...]
    platform: PlatformState
    transports: tuple[TransportState, ...]


_NOT_TAKEN: Final = (errno.EINVAL, errno.E2BIG, errno.ERANGE, errno.EFAULT)


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
