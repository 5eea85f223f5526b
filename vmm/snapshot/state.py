"""The state of a whole machine, as one plain value: what its memory and its disks do not hold.

The one place in this package that knows what kind of machine it is.
"""

from dataclasses import dataclass

from transport.state import TransportState
from vmm.legacy import I8042State, SerialState
from vmm.x86.chip_state import ChipState
from vmm.x86.host import HostIdentity as HostIdentity
from vmm.x86.vcpu_state import VcpuState


@dataclass(frozen=True, slots=True)
class MachineState:
    """All parts of a machine at one moment between two instructions of each of its vCPUs.

    ``transports`` are in the order of the devices' windows; each holds its device and its queues.
    """

    vcpus: tuple[VcpuState, ...]
    chips: ChipState
    serial: SerialState
    i8042: I8042State
    transports: tuple[TransportState, ...]
