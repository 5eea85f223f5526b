"""MSI-X: a table of messages, one for each vector, with masks and pending bits.

PCI Local Bus 3.0 "MSI-X Capability and Table Structures".
"""

import struct
from collections.abc import Callable
from typing import Final

from transport.pci.message import MessageSink, is_message_address
from transport.tap import DeviceTap

PCI_CAP_ID_MSIX: Final = 0x11
PCI_MSIX_FLAGS_ENABLE: Final = 0x8000
PCI_MSIX_FLAGS_MASKALL: Final = 0x4000
PCI_MSIX_ENTRY_SIZE: Final = 16
PCI_MSIX_ENTRY_CTRL_MASKBIT: Final = 1

NO_VECTOR: Final = 0xFFFF
"""Events of this vector are not signalled: VIRTIO_MSI_NO_VECTOR."""

_ENTRY = struct.Struct("<QII")  # address, data, vector control
_CONTROL: Final = 12
_POWER_ON: Final = _ENTRY.pack(0, 0, PCI_MSIX_ENTRY_CTRL_MASKBIT)


class _ToldSink:
    """Tells a tap of each message that is about to be sent."""

    def __init__(self, tap: DeviceTap, sink: MessageSink) -> None:
        self._tap = tap
        self._sink = sink

    def send(self, vector: int, address: int, data: int) -> None:
        self._tap.message(vector, address, data)
        self._sink.send(vector, address, data)

    def close(self) -> None:
        self._sink.close()


class MsixVectors:
    """The vectors of one function; ``on_bad_address`` hears of a message that can go nowhere.

    A vector that is masked, by its own bit, by the function's or because the function may not write
    to memory, is remembered in ``pending``, once however often it is signalled; it is sent when
    nothing masks it any more (``PCI-53``). The caller of a method holds the lock of the function's
    interrupts: an event meets a mask either before it is set or after (``PCI-56``).
    """

    def __init__(
        self, count: int, sink: MessageSink, on_bad_address: Callable[[int, int], None]
    ) -> None:
        self.count = count
        self.enabled = False
        self.function_masked = False
        self.bus_master = False
        self.pending = 0
        self._table = bytearray(_POWER_ON * count)
        self._sink = sink
        self._told_sink: MessageSink = sink
        self._on_bad_address = on_bad_address

    @property
    def table_bytes(self) -> int:
        """The size of the table."""
        return len(self._table)

    @property
    def pending_bytes(self) -> int:
        """The size of the pending bits: whole words of 64."""
        return -(-self.count // 64) * 8

    def signal(self, vector: int) -> None:
        """Send the message of a vector, or leave it pending; not for ``NO_VECTOR``."""
        if self._is_masked(vector):
            self.pending |= 1 << vector
        else:
            self._send(vector)

    def watch(self, tap: DeviceTap | None) -> None:
        """Tell ``tap`` of each message that is about to be sent, or nobody any more."""
        self._told_sink = self._sink if tap is None else _ToldSink(tap, self._sink)

    def set_control(self, *, enabled: bool, function_masked: bool, bus_master: bool) -> None:
        """Take what the guest set in Message Control and in the Command register.

        The table stays as it is; switched off, the vectors forget what is pending (``PCI-57``).
        """
        self.enabled = enabled
        self.function_masked = function_masked
        self.bus_master = bus_master
        if not enabled:
            self.pending = 0
        self._send_pending()

    def read_table(self, offset: int, length: int) -> bytes:
        """Return aligned 4 or 8 bytes of the table; zeros for an access of another form."""
        if not _is_aligned(offset, length, len(self._table)):
            return bytes(length)
        return bytes(self._table[offset : offset + length])

    def write_table(self, offset: int, data: bytes) -> bool:
        """Take aligned 4 or 8 bytes; returns False for a write of another form, which is dropped.

        Nothing but a mask bit that falls makes a message: entries are read when they are sent
        (``PCI-54``, ``PCI-58``).
        """
        if not _is_aligned(offset, len(data), len(self._table)):
            return False
        self._table[offset : offset + len(data)] = data
        vector = offset // PCI_MSIX_ENTRY_SIZE
        control = vector * PCI_MSIX_ENTRY_SIZE + _CONTROL
        self._table[control : control + 4] = bytes(
            [self._table[control] & PCI_MSIX_ENTRY_CTRL_MASKBIT, 0, 0, 0]
        )
        self._send_pending()
        return True

    def read_pending(self, offset: int, length: int) -> bytes:
        """Return aligned 4 or 8 bytes of the pending bits; zeros for an access of another form."""
        size = self.pending_bytes
        if not _is_aligned(offset, length, size):
            return bytes(length)
        return self.pending.to_bytes(size, "little")[offset : offset + length]

    def forget(self, vector: int) -> None:
        """Take back what is pending of a vector, if it is one: no event is mapped to it now."""
        if vector != NO_VECTOR:
            self.pending &= ~(1 << vector)

    def table(self) -> bytes:
        """Return the table as it stands."""
        return bytes(self._table)

    def restore(self, table: bytes, pending: int) -> None:
        """Restore table and pending bits; they are sent with the next :meth:`set_control`."""
        self._table[:] = table
        for control in range(_CONTROL, len(table), PCI_MSIX_ENTRY_SIZE):
            masked = table[control] & PCI_MSIX_ENTRY_CTRL_MASKBIT
            self._table[control : control + 4] = bytes([masked, 0, 0, 0])
        self.pending = pending

    def _is_masked(self, vector: int) -> bool:
        own = self._table[vector * PCI_MSIX_ENTRY_SIZE + _CONTROL] & PCI_MSIX_ENTRY_CTRL_MASKBIT
        return bool(own) or self.function_masked or not self.bus_master

    def _send_pending(self) -> None:
        if not self.pending or not self.enabled:
            return
        for vector in range(self.count):
            if self.pending >> vector & 1 and not self._is_masked(vector):
                self.pending &= ~(1 << vector)
                self._send(vector)

    def _send(self, vector: int) -> None:
        address, data, _ = _ENTRY.unpack_from(self._table, vector * PCI_MSIX_ENTRY_SIZE)
        if is_message_address(address):
            self._told_sink.send(vector, address, data)
        else:
            self._on_bad_address(vector, address)


def _is_aligned(offset: int, length: int, size: int) -> bool:
    return length in (4, 8) and offset % length == 0 and offset + length <= size
