"""A 16550A UART, the first serial port (COM1) of a PC.

After the data sheet "PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs" (National
Semiconductor), without baud rates: a byte is sent the moment it is written.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

from virtio.named_tuple import NamedTuple
from virtio.saved import U8, U16, Length, check_saved
from vmm.legacy.serial_reg import (
    UART_FCR_CLEAR_RCVR,
    UART_FCR_ENABLE_FIFO,
    UART_IER_MSI,
    UART_IER_RDI,
    UART_IER_RLSI,
    UART_IER_THRI,
    UART_IIR_MSI,
    UART_IIR_NO_INT,
    UART_IIR_RDI,
    UART_IIR_RLSI,
    UART_IIR_THRI,
    UART_LCR_DLAB,
    UART_LSR_DR,
    UART_LSR_OE,
    UART_LSR_TEMT,
    UART_LSR_THRE,
    UART_MCR_DTR,
    UART_MCR_LOOP,
    UART_MCR_OUT1,
    UART_MCR_OUT2,
    UART_MCR_RTS,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_MSR_DSR,
    UART_MSR_RI,
)

if TYPE_CHECKING:
    from vmm.legacy.irq import IrqLine


COM1_BASE = 0x3F8
COM1_IRQ = 4
PORT_COUNT = 8

# The depth in the data sheet. Linux measures it through the loop-back, and 64 bytes would make it
# drive the port as another chip, a "U6_16550A".
FIFO_SIZE = 16

_IIR_FIFO_ENABLED = 0xC0
_IER_MASK = 0x0F
_MCR_MASK = 0x1F
_LSR_IDLE = UART_LSR_THRE | UART_LSR_TEMT
_MSR_CONNECTED = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS
# Each cause has its bit in the interrupt enable register; the first one here is reported first.
_PRIORITIES = (
    (UART_IER_RLSI, UART_IIR_RLSI),
    (UART_IER_RDI, UART_IIR_RDI),
    (UART_IER_THRI, UART_IIR_THRI),
    (UART_IER_MSI, UART_IIR_MSI),
)
_LOOP_BACK_WIRES = (
    (UART_MCR_RTS, UART_MSR_CTS),
    (UART_MCR_DTR, UART_MSR_DSR),
    (UART_MCR_OUT1, UART_MSR_RI),
    (UART_MCR_OUT2, UART_MSR_DCD),
)
_BYTES = tuple(bytes((value,)) for value in range(256))


class SerialState(NamedTuple):
    """The registers of a 16550A and the bytes received but not yet read by the guest."""

    interrupt_enable: U8
    fifo_control: U8
    line_control: U8
    modem_control: U8
    scratch: U8
    divisor: U16
    overrun: bool
    modem_deltas: U8
    transmitter_empty_pending: bool
    received: Annotated[bytes, Length(FIFO_SIZE)]


class Serial16550A:
    """A 16550A whose transmitter feeds ``sink`` and whose receiver is fed by ``receive``.

    ``sink`` is called with what the guest sends, on the vCPU's thread, with no lock held; it must
    not block. ``on_space`` is called, on a vCPU's thread, when ``receive`` has taken less than it
    was given and would now take more. ``line`` is raised for every new cause of an interrupt and
    for every byte sent while the guest wants to know that the transmitter is empty. Received bytes
    are announced at once: there is no trigger level and no character time-out.
    """

    def __init__(
        self,
        line: "IrqLine",
        sink: Callable[[bytes], object],
        on_space: Callable[[], object] | None = None,
    ) -> None:
        self.on_space = on_space
        self._line = line
        self._sink = sink
        self._lock = threading.Lock()
        self._ier = 0x00
        self._fcr = 0x00
        self._lcr = 0x03
        self._mcr = UART_MCR_OUT2
        self._scratch = 0x00
        self._divisor = 0x000C
        self._overrun = False
        self._modem_deltas = 0x00
        self._transmitter_empty = False
        self._received: deque[int] = deque()
        self._signalled = 0
        self._host_waits = False

    def read(self, offset: int, length: int) -> bytes:
        """Read ``length`` registers from ``offset`` on, as the bus splits a wide access."""
        if length == 1:
            return _BYTES[self._read_register(offset)]
        return bytes(self._read_register(offset + index) for index in range(length))

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` to the registers from ``offset`` on, one byte to each."""
        for value in data:
            self._write_register(offset, value)
            offset += 1

    def receive(self, data: bytes) -> int:
        """Offer bytes from the host; returns how many the receiver took, from the start."""
        with self._lock:
            room = self._capacity() - len(self._received) if self._is_listening() else 0
            accepted = data[: max(room, 0)]
            self._received.extend(accepted)
            self._host_waits = len(accepted) < len(data)
            self._signal()
        return len(accepted)

    def state(self) -> SerialState:
        """Return what ``restore`` needs to go on from here."""
        with self._lock:
            return SerialState(
                interrupt_enable=self._ier,
                fifo_control=self._fcr,
                line_control=self._lcr,
                modem_control=self._mcr,
                scratch=self._scratch,
                divisor=self._divisor,
                overrun=self._overrun,
                modem_deltas=self._modem_deltas,
                transmitter_empty_pending=self._transmitter_empty,
                received=bytes(self._received),
            )

    def restore(self, state: SerialState) -> None:
        """Become the UART that ``state`` was taken from; a cause still pending is raised again.

        Raises :class:`ConfigurationError` for values that no register has.
        """
        check_saved("serial port", state)
        with self._lock:
            self._ier = state.interrupt_enable & _IER_MASK
            self._fcr = state.fifo_control & 0xFF
            self._lcr = state.line_control & 0xFF
            self._mcr = state.modem_control & _MCR_MASK
            self._scratch = state.scratch & 0xFF
            self._divisor = state.divisor & 0xFFFF
            self._overrun = state.overrun
            self._modem_deltas = state.modem_deltas & 0x0F
            self._transmitter_empty = state.transmitter_empty_pending
            self._received = deque(state.received[: self._capacity()])
            self._signalled = 0
            self._signal()
        self._offer_space()

    def _read_register(self, offset: int) -> int:
        if 0 <= offset < PORT_COUNT:
            return self._READ[offset](self)
        return 0xFF

    def _write_register(self, offset: int, value: int) -> None:
        if 0 <= offset < PORT_COUNT:
            self._WRITE[offset](self, value)

    def _read_data(self) -> int:
        if self._lcr & UART_LCR_DLAB:
            return self._divisor & 0xFF
        with self._lock:
            value = self._received.popleft() if self._received else 0x00
            self._signal()
        self._offer_space()
        return value

    def _write_data(self, value: int) -> None:
        if self._lcr & UART_LCR_DLAB:
            self._divisor = self._divisor & 0xFF00 | value
            return
        if self._mcr & UART_MCR_LOOP:
            self._loop_back(value)
        else:
            self._sink(_BYTES[value])
        if self._ier & UART_IER_THRI:
            with self._lock:
                # Emptied again: a new cause even when the guest has not asked about the last one.
                self._transmitter_empty = True
                self._signalled &= ~UART_IER_THRI
                self._signal()

    def _read_interrupt_enable(self) -> int:
        return self._divisor >> 8 if self._lcr & UART_LCR_DLAB else self._ier

    def _write_interrupt_enable(self, value: int) -> None:
        if self._lcr & UART_LCR_DLAB:
            self._divisor = self._divisor & 0x00FF | value << 8
            return
        with self._lock:
            # The transmitter is always empty, so asking for the interrupt is a cause by itself.
            if value & ~self._ier & UART_IER_THRI:
                self._transmitter_empty = True
            self._ier = value & _IER_MASK
            self._signal()
        self._offer_space()

    def _read_interrupt_identification(self) -> int:
        fifo = _IIR_FIFO_ENABLED if self._fcr & UART_FCR_ENABLE_FIFO else 0x00
        with self._lock:
            causes = self._causes()
            for cause, identification in _PRIORITIES:
                if causes & cause:
                    if cause == UART_IER_THRI:
                        self._transmitter_empty = False
                        self._signal()
                    return fifo | identification
        return fifo | UART_IIR_NO_INT

    def _write_fifo_control(self, value: int) -> None:
        with self._lock:
            switched_off = self._fcr & ~value & UART_FCR_ENABLE_FIFO
            # Hardware also drops the byte received when the FIFO is switched on. Linux does that
            # while it opens the port, and input that waits on the host must not lose its start.
            if value & UART_FCR_CLEAR_RCVR or switched_off:
                self._received.clear()
            self._fcr = value
            self._signal()
        self._offer_space()

    def _read_line_control(self) -> int:
        return self._lcr

    def _write_line_control(self, value: int) -> None:
        self._lcr = value

    def _read_modem_control(self) -> int:
        return self._mcr

    def _write_modem_control(self, value: int) -> None:
        with self._lock:
            before = self._modem_lines()
            self._mcr = value & _MCR_MASK
            after = self._modem_lines()
            changed = before ^ after
            # The ring indicator reports its trailing edge only.
            self._modem_deltas |= (changed & ~UART_MSR_RI | before & ~after & UART_MSR_RI) >> 4
            self._signal()
        self._offer_space()

    def _read_line_status(self) -> int:
        status = _LSR_IDLE | (UART_LSR_DR if self._received else 0)
        if self._overrun:
            with self._lock:
                self._overrun = False
                self._signal()
            status |= UART_LSR_OE
        return status

    def _read_modem_status(self) -> int:
        with self._lock:
            status = self._modem_lines() | self._modem_deltas
            self._modem_deltas = 0
            self._signal()
        return status

    def _read_scratch(self) -> int:
        return self._scratch

    def _write_scratch(self, value: int) -> None:
        self._scratch = value

    def _ignore(self, value: int) -> None:
        """The status registers cannot be written."""

    _READ: ClassVar = (
        _read_data,
        _read_interrupt_enable,
        _read_interrupt_identification,
        _read_line_control,
        _read_modem_control,
        _read_line_status,
        _read_modem_status,
        _read_scratch,
    )
    _WRITE: ClassVar = (
        _write_data,
        _write_interrupt_enable,
        _write_fifo_control,
        _write_line_control,
        _write_modem_control,
        _ignore,
        _ignore,
        _write_scratch,
    )

    def _causes(self) -> int:
        """Return the causes that are pending and enabled, as bits of the enable register."""
        pending = UART_IER_RDI if self._received else 0
        pending |= UART_IER_THRI if self._transmitter_empty else 0
        pending |= UART_IER_RLSI if self._overrun else 0
        pending |= UART_IER_MSI if self._modem_deltas else 0
        return pending & self._ier

    def _signal(self) -> None:
        """Bring the interrupt line in step with the causes; the lock is held."""
        causes = self._causes()
        if causes & ~self._signalled:
            self._line.raise_()
        elif self._signalled and not causes:
            self._line.lower()
        self._signalled = causes

    def _modem_lines(self) -> int:
        if not self._mcr & UART_MCR_LOOP:
            return _MSR_CONNECTED
        return sum(line for control, line in _LOOP_BACK_WIRES if self._mcr & control)

    def _loop_back(self, value: int) -> None:
        with self._lock:
            if len(self._received) < self._capacity():
                self._received.append(value)
            else:
                self._overrun = True
                # A full FIFO keeps what it has; without one the newest byte stays.
                if not self._fcr & UART_FCR_ENABLE_FIFO:
                    self._received[0] = value
            self._signal()

    def _capacity(self) -> int:
        return FIFO_SIZE if self._fcr & UART_FCR_ENABLE_FIFO else 1

    def _is_listening(self) -> bool:
        """Whether the guest will read its input.

        Input can be there long before a driver is: probing and opening the port clear the FIFO, so
        what was put into it by then would be lost. A driver that uses interrupts has them enabled;
        one that polls switches the FIFO on and asserts RTS, which early boot messages do not.
        """
        if self._mcr & UART_MCR_LOOP:
            return False
        if self._ier & UART_IER_RDI:
            return True
        return bool(self._mcr & UART_MCR_RTS and self._fcr & UART_FCR_ENABLE_FIFO)

    def _offer_space(self) -> None:
        # Only once empty: the guest then gets a whole FIFO per interrupt rather than a byte.
        if self._host_waits and not self._received and self._is_listening():
            self._host_waits = False
            if self.on_space is not None:
                self.on_space()
