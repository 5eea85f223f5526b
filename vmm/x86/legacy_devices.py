"""The devices of a PC that Linux expects without any announcement, put on the port bus."""

from collections.abc import Callable

from virtio.named_tuple import NamedTuple
from vmm.bus import Bus
from vmm.legacy import debug_exit, i8042, pvpanic, serial
from vmm.legacy.debug_exit import DebugExit
from vmm.legacy.i8042 import I8042
from vmm.legacy.irq import IrqLine
from vmm.legacy.pvpanic import Pvpanic
from vmm.legacy.serial import Serial16550A


class GuestEvents(NamedTuple):
    """Functions that are called, on a vCPU's thread, when the guest uses the PC's own devices.

    ``output`` takes bytes of the serial port; ``reset`` a request for a reset, and ``power_off``
    one to switch the machine off; ``status`` what the guest wrote to the debug-exit port; ``panic``
    the bits it wrote to the pvpanic port.
    """

    output: Callable[[bytes], object]
    reset: Callable[[], object]
    power_off: Callable[[], object]
    status: Callable[[int], object]
    panic: Callable[[int], object]


class LegacyDevices:
    """The serial port, the keyboard controller, and the two ports that end a guest, on ``ports``.

    ``line`` makes the interrupt line of a GSI.
    """

    def __init__(self, ports: Bus, line: Callable[[int], IrqLine], events: GuestEvents) -> None:
        self.serial = Serial16550A(line(serial.COM1_IRQ), events.output)
        self.i8042 = I8042(line(i8042.KEYBOARD_IRQ), events.reset)
        ports.add(serial.COM1_BASE, serial.PORT_COUNT, self.serial, "serial")
        ports.add(i8042.DATA_PORT, 1, self.i8042, "i8042 data", i8042.DATA_OFFSET)
        ports.add(i8042.COMMAND_PORT, 1, self.i8042, "i8042 command", i8042.COMMAND_OFFSET)
        ports.add(
            debug_exit.DEBUG_EXIT_PORT,
            debug_exit.PORT_COUNT,
            DebugExit(events.status),
            "debug-exit",
        )
        ports.add(pvpanic.PVPANIC_PORT, pvpanic.PORT_COUNT, Pvpanic(events.panic), "pvpanic")
