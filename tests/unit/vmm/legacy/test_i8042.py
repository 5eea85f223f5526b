"""The keyboard controller, driven through its two ports as Linux drives them."""

from typing import Any

import pytest

from virtio.errors import ConfigurationError
from vmm.bus import Bus
from vmm.legacy.i8042 import I8042, I8042State


class Line:
    def __init__(self) -> None:
        self.edges = 0

    def raise_(self) -> None:
        self.edges += 1

    def lower(self) -> None:
        pass


class Machine:
    """The controller on a bus, with the port numbers a guest uses."""

    def __init__(self) -> None:
        self.line = Line()
        self.resets = 0
        self.i8042 = I8042(self.line, self._reset)
        self._bus = Bus("port I/O")
        self._bus.add(0x60, 1, self.i8042, "i8042 data")
        self._bus.add(0x64, 1, self.i8042, "i8042 command", offset=4)

    def inb(self, port: int) -> int:
        return self._bus.read(port, 1)[0]

    def outb(self, port: int, value: int) -> None:
        self._bus.write(port, bytes((value,)))

    def drain(self, count: int) -> bytes:
        return bytes(self.inb(0x60) for _ in range(count))

    def _reset(self) -> None:
        self.resets += 1


def test_status_at_reset_is_unlocked_post_done_and_nothing_to_read() -> None:
    assert Machine().inb(0x64) == 0x14


def test_data_port_reads_zero_when_there_is_nothing() -> None:
    assert Machine().inb(0x60) == 0x00


def test_pulse_of_the_reset_line_resets_the_machine() -> None:
    machine = Machine()

    machine.outb(0x64, 0xFE)

    assert machine.resets == 1


@pytest.mark.parametrize("command", [0xFF, 0xF1, 0x00, 0xE0])
def test_commands_that_leave_the_reset_line_alone_do_not_reset(command: int) -> None:
    machine = Machine()

    machine.outb(0x64, command)

    assert machine.resets == 0


@pytest.mark.parametrize(("value", "resets"), [(0x02, 1), (0x03, 0), (0x01, 0)])
def test_output_port_resets_when_its_lowest_bit_is_written_low(value: int, resets: int) -> None:
    machine = Machine()

    machine.outb(0x64, 0xD1)
    machine.outb(0x60, value)

    assert machine.resets == resets


def test_output_port_reads_back_with_reset_and_a20_high() -> None:
    machine = Machine()

    machine.outb(0x64, 0xD0)

    assert machine.inb(0x64) & 0x01
    assert machine.inb(0x60) == 0x03


def test_control_byte_is_05_at_reset() -> None:
    machine = Machine()

    machine.outb(0x64, 0x20)

    assert machine.inb(0x60) == 0x05


def test_control_byte_reads_back_what_was_written() -> None:
    machine = Machine()

    machine.outb(0x64, 0x60)
    machine.outb(0x60, 0x75)
    machine.outb(0x64, 0x20)

    assert machine.inb(0x60) == 0x75


def test_status_shows_that_a_command_waits_for_its_data() -> None:
    machine = Machine()

    machine.outb(0x64, 0x60)
    waiting = machine.inb(0x64)
    machine.outb(0x60, 0x05)

    assert (waiting & 0x08, machine.inb(0x64) & 0x08) == (0x08, 0x00)


def test_a_new_command_replaces_one_that_waits_for_its_data() -> None:
    machine = Machine()

    machine.outb(0x64, 0xD1)
    machine.outb(0x64, 0xAE)
    machine.outb(0x60, 0x00)

    assert machine.resets == 0
    assert machine.inb(0x60) == 0xFA


@pytest.mark.parametrize(("command", "reply"), [(0xAA, 0x55), (0xAB, 0x00)])
def test_self_tests_pass(command: int, reply: int) -> None:
    machine = Machine()

    machine.outb(0x64, command)

    assert (machine.inb(0x64) & 0x01, machine.inb(0x60)) == (0x01, reply)


@pytest.mark.parametrize(
    ("command", "reply"),
    [(0xED, b"\xfa"), (0xF4, b"\xfa"), (0xF2, b"\xfa\xab\x83"), (0xFF, b"\xfa\xaa")],
)
def test_keyboard_answers_its_commands(command: int, reply: bytes) -> None:
    machine = Machine()

    machine.outb(0x60, command)

    assert machine.drain(len(reply)) == reply
    assert machine.inb(0x64) & 0x01 == 0


def test_each_byte_of_a_reply_gets_its_interrupt() -> None:
    machine = Machine()

    machine.outb(0x60, 0xF2)
    machine.drain(3)

    assert machine.line.edges == 3


def test_no_interrupt_while_the_guest_has_it_disabled_and_one_when_it_enables_it() -> None:
    machine = Machine()
    machine.outb(0x64, 0x60)
    machine.outb(0x60, 0x04)

    machine.outb(0x60, 0xED)
    while_disabled = machine.line.edges
    machine.outb(0x64, 0x60)
    machine.outb(0x60, 0x05)

    assert (while_disabled, machine.line.edges) == (0, 1)


def test_ctrl_alt_del_is_pressed_and_released_in_scan_code_set_2() -> None:
    machine = Machine()

    pressed = machine.i8042.press_ctrl_alt_del()

    assert pressed
    assert machine.drain(11) == bytes.fromhex("1411e071e0f071f011f014")
    assert machine.line.edges == 11


def test_ctrl_alt_del_is_in_set_1_when_the_guest_asked_for_translation() -> None:
    machine = Machine()
    machine.outb(0x64, 0x60)
    machine.outb(0x60, 0x45)

    machine.i8042.press_ctrl_alt_del()

    assert machine.drain(8) == bytes.fromhex("1d38e053e0d3b89d")


def test_ctrl_alt_del_is_refused_while_the_last_one_was_not_read() -> None:
    machine = Machine()
    machine.i8042.press_ctrl_alt_del()

    again = machine.i8042.press_ctrl_alt_del()

    assert not again
    assert machine.drain(12)[-1] == 0x00


@pytest.mark.parametrize("control", [0x04, 0x15])
def test_ctrl_alt_del_is_refused_when_no_driver_listens(control: int) -> None:
    machine = Machine()
    machine.outb(0x64, 0x60)
    machine.outb(0x60, control)

    assert not machine.i8042.press_ctrl_alt_del()


def test_disable_and_enable_commands_show_in_the_control_byte() -> None:
    machine = Machine()

    machine.outb(0x64, 0xAD)
    machine.outb(0x64, 0x20)
    disabled = machine.inb(0x60)
    machine.outb(0x64, 0xAE)
    machine.outb(0x64, 0x20)

    assert (disabled, machine.inb(0x60)) == (0x15, 0x05)


@pytest.mark.parametrize("offset", [0, 4])
def test_wide_accesses_read_ones_and_write_nothing(offset: int) -> None:
    machine = Machine()

    machine.i8042.write(offset, b"\xfe\xfe")

    assert machine.i8042.read(offset, 2) == b"\xff\xff"
    assert (machine.resets, machine.inb(0x64)) == (0, 0x14)


def test_reset_callback_may_use_the_controller() -> None:
    states: list[I8042State] = []
    controllers: list[I8042] = []
    controllers.append(I8042(Line(), lambda: states.append(controllers[0].state())))

    controllers[0].write(4, b"\xfe")

    assert states == [I8042State(0x05, 0x03, 0, b"")]


def test_state_taken_in_mid_command_goes_on_in_another_controller() -> None:
    saved, restored = Machine(), Machine()
    saved.i8042.press_ctrl_alt_del()
    saved.outb(0x64, 0xD1)

    restored.i8042.restore(saved.i8042.state())
    restored.outb(0x60, 0x02)

    assert restored.resets == 1
    assert restored.line.edges == 1
    assert restored.drain(2) == b"\x14\x11"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": 256}, "control is 256, must be 0 to 255"),
        ({"command": True}, "command is True, must be int"),
        ({"buffer": bytes(17)}, "buffer has 17 items, must have 0 to 16"),
    ],
)
def test_a_state_that_no_controller_has_is_refused(changes: dict[str, Any], message: str) -> None:
    machine = Machine()
    state = machine.i8042.state()

    with pytest.raises(ConfigurationError, match=f"saved keyboard controller: {message}"):
        machine.i8042.restore(state._replace(**changes))
    assert machine.i8042.state() == state
