"""An i8042 keyboard controller: how a PC is reset, and how Ctrl-Alt-Del reaches the guest.

Just enough of the "IBM PC/AT Technical Reference: Keyboard Controller" for Linux's i8042 and atkbd
drivers to find a keyboard at once; there is no mouse.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from virtio.named_tuple import NamedTuple
from virtio.saved import U8, Length, check_saved

if TYPE_CHECKING:
    from vmm.legacy.irq import IrqLine


DATA_PORT = 0x60
COMMAND_PORT = 0x64
DATA_OFFSET = 0
COMMAND_OFFSET = COMMAND_PORT - DATA_PORT
KEYBOARD_IRQ = 1
BUFFER_SIZE = 16

STATUS_OUTPUT_FULL = 0x01
STATUS_SYSTEM = 0x04
STATUS_COMMAND = 0x08
STATUS_UNLOCKED = 0x10

CONTROL_KEYBOARD_INTERRUPT = 0x01
CONTROL_SYSTEM = 0x04
CONTROL_KEYBOARD_DISABLED = 0x10
CONTROL_TRANSLATE = 0x40

COMMAND_READ_CONTROL = 0x20
COMMAND_WRITE_CONTROL = 0x60
COMMAND_SELF_TEST = 0xAA
COMMAND_TEST_KEYBOARD = 0xAB
COMMAND_DISABLE_KEYBOARD = 0xAD
COMMAND_ENABLE_KEYBOARD = 0xAE
COMMAND_READ_OUTPUT = 0xD0
COMMAND_WRITE_OUTPUT = 0xD1
COMMAND_PULSE_RESET = 0xFE

# Both lines of the output port are active low: 1 means not in reset.
OUTPUT_RESET = 0x01
OUTPUT_A20 = 0x02

_ACKNOWLEDGE = b"\xfa"
_KEYBOARD_REPLIES = {
    0xEE: b"\xee",  # echo
    0xF2: b"\xfa\xab\x83",  # identify: an MF2 keyboard
    0xFF: b"\xfa\xaa",  # reset: acknowledged, self-test passed
}

# Press Ctrl, Alt, Delete; release them in the opposite order, so that it works a second time.
_CTRL_ALT_DEL_SET_2 = bytes.fromhex("14 11 e071 e0f071 f011 f014")
_CTRL_ALT_DEL_SET_1 = bytes.fromhex("1d 38 e053 e0d3 b8 9d")


class I8042State(NamedTuple):
    """The registers of the controller and the bytes that the guest has not read yet.

    ``command`` is the command that waits for its data byte, 0 when none does.
    """

    control: U8
    output_port: U8
    command: U8
    buffer: Annotated[bytes, Length(BUFFER_SIZE)]


class I8042:
    """The controller on ports 0x60 (offset 0) and 0x64 (offset 4), with a keyboard attached.

    ``on_reset`` is called on the vCPU's thread when the guest pulls the reset line. ``line`` is
    raised for each byte that the guest can read, while it has the keyboard interrupt enabled.
    Accesses of more than one byte are none of this device's: they read as ones and write nothing.
    """

    def __init__(self, line: "IrqLine", on_reset: Callable[[], object]) -> None:
        self._line = line
        self._on_reset = on_reset
        self._lock = threading.Lock()
        self._control = CONTROL_KEYBOARD_INTERRUPT | CONTROL_SYSTEM
        self._output_port = OUTPUT_RESET | OUTPUT_A20
        self._command = 0
        self._buffer: deque[int] = deque()

    def read(self, offset: int, length: int) -> bytes:
        """Read the data port (offset 0) or the status (offset 4)."""
        if length != 1 or offset not in (DATA_OFFSET, COMMAND_OFFSET):
            return b"\xff" * length
        with self._lock:
            value = self._read_data() if offset == DATA_OFFSET else self._status()
        return bytes((value,))

    def write(self, offset: int, data: bytes) -> None:
        """Write a command (offset 4), or the data of a command or of the keyboard (offset 0)."""
        if len(data) != 1 or offset not in (DATA_OFFSET, COMMAND_OFFSET):
            return
        with self._lock:
            take = self._take_command if offset == COMMAND_OFFSET else self._take_data
            resets = take(data[0])
        if resets:
            self._on_reset()

    def press_ctrl_alt_del(self) -> bool:
        """Press and release Ctrl-Alt-Del; False when no driver listens or the buffer is full."""
        with self._lock:
            translated = self._control & CONTROL_TRANSLATE
            codes = _CTRL_ALT_DEL_SET_1 if translated else _CTRL_ALT_DEL_SET_2
            listening = CONTROL_KEYBOARD_INTERRUPT | CONTROL_KEYBOARD_DISABLED
            if self._control & listening != CONTROL_KEYBOARD_INTERRUPT:
                return False
            if len(self._buffer) + len(codes) > BUFFER_SIZE:
                return False
            self._buffer.extend(codes)
            self._signal()
        return True

    def state(self) -> I8042State:
        """Return what ``restore`` needs to go on from here."""
        with self._lock:
            return I8042State(self._control, self._output_port, self._command, bytes(self._buffer))

    def restore(self, state: I8042State) -> None:
        """Become the controller that ``state`` was taken from; unread bytes are signalled again.

        Raises :class:`ConfigurationError` for values that no register has.
        """
        check_saved("keyboard controller", state)
        with self._lock:
            self._control = state.control & 0xFF
            self._output_port = state.output_port & 0xFF
            self._command = state.command & 0xFF
            self._buffer = deque(state.buffer[:BUFFER_SIZE])
            self._signal()

    def _status(self) -> int:
        status = STATUS_UNLOCKED | self._control & STATUS_SYSTEM
        status |= STATUS_OUTPUT_FULL if self._buffer else 0
        return status | (STATUS_COMMAND if self._command else 0)

    def _read_data(self) -> int:
        value = self._buffer.popleft() if self._buffer else 0x00
        if self._buffer:
            self._signal()
        else:
            self._line.lower()
        return value

    def _take_command(self, command: int) -> bool:
        """Carry a command out; True when it resets the machine."""
        self._command = 0
        if command in (COMMAND_WRITE_CONTROL, COMMAND_WRITE_OUTPUT):
            self._command = command
        elif command == COMMAND_READ_CONTROL:
            self._reply((self._control,))
        elif command == COMMAND_READ_OUTPUT:
            self._reply((self._output_port,))
        elif command == COMMAND_SELF_TEST:
            self._reply((0x55,))
        elif command == COMMAND_TEST_KEYBOARD:
            self._reply((0x00,))
        elif command == COMMAND_DISABLE_KEYBOARD:
            self._control |= CONTROL_KEYBOARD_DISABLED
        elif command == COMMAND_ENABLE_KEYBOARD:
            self._control &= ~CONTROL_KEYBOARD_DISABLED
        # 0xF0 to 0xFF pulse those lines of the output port low whose bit is clear.
        return command & ~0x0F == 0xF0 and not command & OUTPUT_RESET

    def _take_data(self, value: int) -> bool:
        """Give a byte to the command that waits for it, or to the keyboard; True as above."""
        command, self._command = self._command, 0
        if command == COMMAND_WRITE_CONTROL:
            self._control = value
            self._signal()
        elif command == COMMAND_WRITE_OUTPUT:
            self._output_port = value
            return not value & OUTPUT_RESET
        else:
            self._reply(_KEYBOARD_REPLIES.get(value, _ACKNOWLEDGE))
        return False

    def _reply(self, reply: bytes | tuple[int, ...]) -> None:
        # Keys that were not read yet give way, which also bounds the buffer.
        self._buffer = deque(reply)
        self._signal()

    def _signal(self) -> None:
        if self._buffer and self._control & CONTROL_KEYBOARD_INTERRUPT:
            self._line.raise_()
