"""The commands of the network device's control queue. VIRTIO 1.4 "Control Virtqueue".

``struct virtio_net_ctrl { u8 class; u8 command; u8 data[]; u8 ack; }``
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from virtio.net.filter import MAC_BYTES, MAX_ADDRESSES, MODES

if TYPE_CHECKING:
    from virtio.net.device import Net

OK, ERR = b"\0", b"\1"
MAX_COMMAND_BYTES: Final = 2 + 2 * (4 + MAC_BYTES * MAX_ADDRESSES)

Command = Callable[["Net", bytes], bool]
"""Does what the data says, and returns whether that could be done; if not, nothing has changed."""


def execute(device: Net, command: bytes) -> bytes:
    """Do a command, all that the driver sent, and return the byte that answers it (``NET-19``)."""
    known = COMMANDS.get(command[:2])
    if known is None or len(command) > MAX_COMMAND_BYTES:
        return ERR
    feature, do = known
    if not getattr(device, f"VIRTIO_NET_F_{feature}"):
        return ERR
    return OK if do(device, command[2:]) else ERR


def _mode(name: str) -> Command:
    def do(device: Net, data: bytes) -> bool:
        if len(data) != 1 or data[0] > 1:
            return False
        device.filter.set_mode(name, on=bool(data[0]))
        return True

    return do


def _set_tables(device: Net, data: bytes) -> bool:
    return device.filter.set_tables(data)


def _set_address(device: Net, data: bytes) -> bool:
    if len(data) != MAC_BYTES:
        return False
    device.change_quietly("mac", data)  # NET-22
    return True


def _vlan(*, listed: bool) -> Command:
    def do(device: Net, data: bytes) -> bool:
        vlan = int.from_bytes(data, "little")
        return len(data) == 2 and device.filter.set_vlan(vlan, listed=listed)

    return do


def _announced(device: Net, data: bytes) -> bool:
    if data:
        return False
    device.announced()  # NET-25
    return True


def _set_pairs(device: Net, data: bytes) -> bool:
    return len(data) == 2 and device.use_pairs(int.from_bytes(data, "little"))


def _set_offloads(device: Net, data: bytes) -> bool:
    return len(data) == 8 and device.use_offloads(int.from_bytes(data, "little"))


COMMANDS: Final[dict[bytes, tuple[str, Command]]] = {
    **{
        bytes([0, number]): ("CTRL_RX" if number < 2 else "CTRL_RX_EXTRA", _mode(name))
        for number, name in enumerate(MODES)
    },
    b"\1\0": ("CTRL_RX", _set_tables),
    b"\1\1": ("CTRL_MAC_ADDR", _set_address),
    b"\2\0": ("CTRL_VLAN", _vlan(listed=True)),
    b"\2\1": ("CTRL_VLAN", _vlan(listed=False)),
    b"\3\0": ("GUEST_ANNOUNCE", _announced),
    b"\4\0": ("MQ", _set_pairs),
    b"\5\0": ("CTRL_GUEST_OFFLOADS", _set_offloads),
}
"""By class and number: the feature that the command needs, and what does it."""
