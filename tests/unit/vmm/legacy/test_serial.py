"""The 16550A, driven through its ports by the probes and handlers of a driver like Linux's 8250."""

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtio.errors import ConfigurationError
from vmm.bus import Bus
from vmm.legacy.serial import Serial16550A, SerialState

# The registers of COM1, from the data sheet.
DATA, IER, IIR, FCR = 0x3F8, 0x3F9, 0x3FA, 0x3FA
LCR, MCR, LSR, MSR, SCR = 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF


class Line:
    """Counts edges and follows the level."""

    def __init__(self) -> None:
        self.edges = 0
        self.level = 0

    def raise_(self) -> None:
        self.edges += 1
        self.level = 1

    def lower(self) -> None:
        self.level = 0


class Machine:
    """A 16550A on a bus, with what came out of it on the host's side."""

    def __init__(self) -> None:
        self.line = Line()
        self.sent = bytearray()
        self.space = 0
        self.serial = Serial16550A(self.line, self.sent.extend, self._on_space)
        self._bus = Bus("port I/O")
        self._bus.add(0x3F8, 8, self.serial, "serial")

    def inb(self, port: int) -> int:
        return self._bus.read(port, 1)[0]

    def outb(self, port: int, value: int) -> None:
        self._bus.write(port, bytes((value,)))

    def outs(self, *writes: tuple[int, int]) -> None:
        for port, value in writes:
            self.outb(port, value)

    def drain(self) -> bytes:
        """Read as an interrupt handler does: as long as the line status says there is data."""
        data = bytearray()
        while self.inb(LSR) & 0x01:
            data.append(self.inb(DATA))
        return bytes(data)

    def _on_space(self) -> None:
        self.space += 1


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def opened() -> Machine:
    """A port as a driver leaves it after opening: FIFO on, RTS up, receive interrupt enabled."""
    machine = Machine()
    machine.outs((FCR, 0x01), (MCR, 0x0B), (IER, 0x05))
    return machine


def test_probe_finds_that_the_interrupt_enable_register_holds_four_bits(machine: Machine) -> None:
    machine.outb(IER, 0x00)
    cleared = machine.inb(IER)
    machine.outb(IER, 0xFF)

    assert (cleared, machine.inb(IER)) == (0x00, 0x0F)


def test_probe_finds_the_modem_lines_looped_back(machine: Machine) -> None:
    machine.outb(MCR, 0x1A)

    assert machine.inb(MSR) & 0xF0 == 0x90


@pytest.mark.parametrize(("control", "line"), [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)])
def test_each_modem_control_output_loops_back_to_its_input(control: int, line: int) -> None:
    machine = Machine()

    machine.outb(MCR, 0x10 | control)

    assert machine.inb(MSR) & 0xF0 == line


def test_modem_lines_say_connected_outside_of_loop_back(machine: Machine) -> None:
    assert machine.inb(MSR) == 0xB0


def test_identification_shows_a_fifo_exactly_while_it_is_on(machine: Machine) -> None:
    off = machine.inb(IIR)
    machine.outb(FCR, 0x01)
    on = machine.inb(IIR)
    machine.outb(FCR, 0x00)

    assert (off, on, machine.inb(IIR)) == (0x01, 0xC1, 0x01)


@pytest.mark.parametrize("line_control", [0x80, 0xBF])
def test_probe_finds_no_extended_feature_register(machine: Machine, line_control: int) -> None:
    machine.outs((FCR, 0x01), (LCR, line_control))

    assert machine.inb(IIR) != 0x00


def test_probe_finds_no_national_semiconductor_bank(machine: Machine) -> None:
    machine.outs((FCR, 0x01), (MCR, 0x08), (LCR, 0xE0))
    before = machine.inb(IIR)
    machine.outs((LCR, 0x00), (MCR, 0x18), (LCR, 0xE0))

    assert (before ^ machine.inb(IIR)) & 0x10 == 0


@pytest.mark.parametrize("line_control", [0x00, 0x80])
def test_probe_finds_no_64_byte_mode_of_a_16750(machine: Machine, line_control: int) -> None:
    machine.outs((LCR, line_control), (FCR, 0x21))

    assert machine.inb(IIR) >> 5 == 6


def test_probe_measures_a_fifo_of_16_bytes(machine: Machine) -> None:
    machine.outs((FCR, 0x07), (MCR, 0x10))
    for value in range(256):
        machine.outb(DATA, value)

    assert machine.drain() == bytes(range(16))


def test_scratch_register_reads_back(machine: Machine) -> None:
    machine.outb(SCR, 0xA5)

    assert machine.inb(SCR) == 0xA5


def test_divisor_reads_back_and_shadows_data_and_interrupt_enable(machine: Machine) -> None:
    machine.outs((IER, 0x01), (LCR, 0x83), (DATA, 0x01), (IER, 0xC2))
    divisor = (machine.inb(DATA), machine.inb(IER))
    machine.outb(LCR, 0x03)

    assert divisor == (0x01, 0xC2)
    assert (machine.inb(IER), bytes(machine.sent)) == (0x01, b"")


def test_what_the_guest_writes_reaches_the_sink(machine: Machine) -> None:
    for value in b"Hi\xff\x00":
        machine.outb(DATA, value)

    assert bytes(machine.sent) == b"Hi\xff\x00"


def test_transmitter_is_always_empty(machine: Machine) -> None:
    machine.outb(DATA, 0x41)

    assert machine.inb(LSR) == 0x60


def test_every_byte_sent_raises_the_line_while_the_interrupt_is_enabled(machine: Machine) -> None:
    machine.outb(IER, 0x02)
    on_enabling = machine.line.edges
    for value in b"abc":
        machine.outb(DATA, value)

    assert (on_enabling, machine.line.edges) == (1, 4)


def test_no_interrupt_for_bytes_sent_while_it_is_disabled(machine: Machine) -> None:
    machine.outb(DATA, 0x41)

    assert (machine.line.edges, machine.inb(IIR)) == (0, 0x01)


def test_reading_the_identification_clears_the_transmitter_cause(machine: Machine) -> None:
    machine.outb(IER, 0x02)

    causes = (machine.inb(IIR), machine.inb(IIR))

    assert causes == (0x02, 0x01)
    assert machine.line.level == 0


def test_transmitter_cause_returns_each_time_the_interrupt_is_enabled(machine: Machine) -> None:
    machine.outb(IER, 0x02)
    first = machine.inb(IIR)
    machine.outs((IER, 0x00), (IER, 0x02))

    assert (first, machine.inb(IIR)) == (0x02, 0x02)


def test_writing_the_enable_bit_again_is_no_new_cause(machine: Machine) -> None:
    machine.outb(IER, 0x02)
    machine.inb(IIR)

    machine.outb(IER, 0x03)

    assert machine.inb(IIR) == 0x01


def test_interrupt_driven_output_of_a_whole_buffer_comes_to_an_end(machine: Machine) -> None:
    text = bytearray(b"a line longer than the FIFO of sixteen bytes\r\n")
    machine.outb(IER, 0x02)
    while machine.inb(IIR) == 0x02:
        for value in text[:16]:
            machine.outb(DATA, value)
        del text[:16]
        machine.outb(IER, 0x02 * bool(text))

    assert bytes(machine.sent) == b"a line longer than the FIFO of sixteen bytes\r\n"


def test_received_byte_raises_the_line_and_is_announced_and_read(opened: Machine) -> None:
    opened.serial.receive(b"x")

    assert (opened.line.edges, opened.inb(LSR), opened.inb(IIR)) == (1, 0x61, 0xC4)
    assert (opened.inb(DATA), opened.inb(LSR), opened.inb(IIR)) == (0x78, 0x60, 0xC1)
    assert opened.line.level == 0


def test_input_after_the_fifo_was_drained_is_a_new_edge(opened: Machine) -> None:
    opened.serial.receive(b"x")
    opened.drain()

    opened.serial.receive(b"y")

    assert opened.line.edges == 2


def test_enabling_the_receive_interrupt_announces_what_is_there(opened: Machine) -> None:
    opened.outb(IER, 0x00)
    opened.serial.receive(b"x")
    while_disabled = opened.line.edges

    opened.outb(IER, 0x01)

    assert (while_disabled, opened.line.edges) == (0, 1)


def test_second_cause_is_an_edge_of_its_own_while_the_first_is_pending(opened: Machine) -> None:
    opened.serial.receive(b"x")

    opened.outb(IER, 0x07)

    assert opened.line.edges == 2


def test_reading_an_empty_receiver_gives_zero(machine: Machine) -> None:
    assert machine.inb(DATA) == 0x00


def test_receiver_takes_16_bytes_and_leaves_the_rest_to_the_host(opened: Machine) -> None:
    accepted = opened.serial.receive(bytes(range(40)))

    assert (accepted, opened.serial.receive(b"more")) == (16, 0)
    assert opened.drain() == bytes(range(16))


def test_host_hears_once_when_the_guest_has_drained_a_full_fifo(opened: Machine) -> None:
    opened.serial.receive(bytes(17))
    for _ in range(15):
        opened.inb(DATA)
    before_the_last = opened.space

    opened.inb(DATA)
    opened.inb(DATA)

    assert (before_the_last, opened.space) == (0, 1)


def test_host_hears_nothing_when_everything_was_taken(opened: Machine) -> None:
    opened.serial.receive(bytes(16))

    opened.drain()

    assert opened.space == 0


def test_receiver_without_fifo_takes_one_byte(machine: Machine) -> None:
    machine.outb(IER, 0x01)

    assert machine.serial.receive(b"ab") == 1


def test_input_waits_on_the_host_until_a_driver_listens(machine: Machine) -> None:
    refused = machine.serial.receive(b"early")

    machine.outs((FCR, 0x01), (IER, 0x01))

    assert (refused, machine.space) == (0, 1)
    assert machine.serial.receive(b"early") == 5


def test_polling_guest_gets_input_once_it_has_the_fifo_on_and_asserts_rts(machine: Machine) -> None:
    machine.outs((FCR, 0xC7), (MCR, 0x03))

    machine.serial.receive(b"key")

    assert machine.drain() == b"key"


def test_input_typed_before_the_port_is_opened_survives_the_opening(machine: Machine) -> None:
    machine.serial.receive(b"root")
    # Probing, then opening: FIFO cleared and off, registers cleared, interrupt test, settings.
    machine.outs((IER, 0x00), (FCR, 0x01), (FCR, 0x07), (FCR, 0x00))
    [machine.inb(port) for port in (LSR, DATA, IIR, MSR)]
    machine.outs((IER, 0x02), (IER, 0x00), (LCR, 0x13), (MCR, 0x08))
    [machine.inb(port) for port in (LSR, DATA, IIR, MSR)]

    machine.outb(IER, 0x05)
    first = machine.serial.receive(b"root")
    machine.outs((LCR, 0x93), (LCR, 0x13), (FCR, 0x01), (FCR, 0x81), (MCR, 0x0B))
    machine.serial.receive(b"root"[first:])

    assert machine.drain() == b"root"


def test_fifo_clear_drops_what_was_received_and_its_interrupt(opened: Machine) -> None:
    opened.serial.receive(b"old")

    opened.outb(FCR, 0x03)

    assert (opened.inb(LSR), opened.inb(IIR), opened.line.level) == (0x60, 0xC1, 0)


def test_switching_the_fifo_off_drops_what_was_received(opened: Machine) -> None:
    opened.serial.receive(b"old")

    opened.outb(FCR, 0x00)

    assert opened.inb(LSR) == 0x60


def test_fifo_clear_makes_room_for_a_host_that_waits(opened: Machine) -> None:
    opened.serial.receive(bytes(17))

    opened.outb(FCR, 0x03)

    assert opened.space == 1


def test_loop_back_sends_to_the_receiver_and_not_to_the_sink(machine: Machine) -> None:
    machine.outs((FCR, 0x01), (MCR, 0x10), (DATA, 0x41))

    assert (machine.drain(), bytes(machine.sent)) == (b"A", b"")


def test_loop_back_keeps_the_host_out_until_it_ends(opened: Machine) -> None:
    opened.outb(MCR, 0x1B)
    accepted = opened.serial.receive(b"x")
    during = opened.space

    opened.outb(MCR, 0x0B)

    assert (accepted, during, opened.space) == (0, 0, 1)


def test_overrun_shows_once_in_the_line_status_and_keeps_the_fifo(machine: Machine) -> None:
    machine.outs((FCR, 0x01), (MCR, 0x10))
    for value in range(17):
        machine.outb(DATA, value)

    statuses = (machine.inb(LSR), machine.inb(LSR))

    assert statuses == (0x63, 0x61)
    assert machine.drain() == bytes(range(16))


def test_overrun_without_fifo_keeps_the_newest_byte(machine: Machine) -> None:
    machine.outs((MCR, 0x10), (DATA, 0x41), (DATA, 0x42))

    assert machine.drain() == b"B"


def test_causes_are_reported_in_the_order_of_the_data_sheet(machine: Machine) -> None:
    machine.outs((FCR, 0x01), (IER, 0x0F), (MCR, 0x18), (MCR, 0x1A))
    for value in range(17):
        machine.outb(DATA, value)

    line_status = machine.inb(IIR)
    machine.inb(LSR)
    received = machine.inb(IIR)
    machine.drain()
    transmitter, modem = machine.inb(IIR), machine.inb(IIR)
    machine.inb(MSR)

    assert (line_status, received, transmitter, modem) == (0xC6, 0xC4, 0xC2, 0xC0)
    assert (machine.inb(IIR), machine.line.level) == (0xC1, 0)


def test_modem_status_reports_a_change_once(machine: Machine) -> None:
    machine.outb(MCR, 0x18)
    machine.inb(MSR)
    machine.outb(MCR, 0x1A)

    assert (machine.inb(MSR), machine.inb(MSR)) == (0x91, 0x90)


@pytest.mark.parametrize(("before", "after", "delta"), [(0x14, 0x10, 0x04), (0x10, 0x14, 0x00)])
def test_ring_indicator_reports_its_trailing_edge_only(
    machine: Machine, before: int, after: int, delta: int
) -> None:
    machine.outb(MCR, before)
    machine.inb(MSR)

    machine.outb(MCR, after)

    assert machine.inb(MSR) & 0x0F == delta


def test_status_registers_ignore_writes(machine: Machine) -> None:
    machine.outs((LSR, 0x00), (MSR, 0x00))

    assert (machine.inb(LSR), machine.inb(MSR)) == (0x60, 0xB0)


def test_wide_access_is_split_over_the_registers_that_follow(machine: Machine) -> None:
    machine.serial.write(3, b"\x1b\x0b")

    assert machine.serial.read(3, 4) == b"\x1b\x0b\x60\xb0"


def test_access_outside_of_the_registers_reads_ones_and_writes_nothing(machine: Machine) -> None:
    machine.serial.write(7, b"\x5a\x00\x00")

    assert machine.serial.read(7, 3) == b"\x5a\xff\xff"
    assert machine.serial.read(-1, 1) == b"\xff"


def test_sink_may_answer_the_guest_at_once() -> None:
    serial = Serial16550A(Line(), lambda data: serial.receive(data.upper()))
    serial.write(2, b"\x01")
    serial.write(1, b"\x03")

    serial.write(0, b"y")

    assert serial.read(0, 1) == b"Y"


def test_space_callback_may_deliver_at_once() -> None:
    rest = bytearray(range(40))
    serial = Serial16550A(Line(), lambda data: None)

    def deliver() -> None:
        del rest[: serial.receive(bytes(rest))]

    serial.on_space = deliver
    serial.write(2, b"\x01")
    serial.write(1, b"\x01")
    deliver()

    assert bytes(serial.read(0, 1)[0] for _ in range(40)) == bytes(range(40))


def test_state_holds_every_register_as_it_was_set(opened: Machine) -> None:
    opened.outs((LCR, 0x83), (DATA, 0x01), (IER, 0x02), (LCR, 0x13), (SCR, 0x77))
    opened.serial.receive(b"ab")

    assert opened.serial.state() == SerialState(
        interrupt_enable=0x05,
        fifo_control=0x01,
        line_control=0x13,
        modem_control=0x0B,
        scratch=0x77,
        divisor=0x0201,
        overrun=False,
        modem_deltas=0x00,
        transmitter_empty_pending=False,
        received=b"ab",
    )


def test_restored_port_raises_what_was_pending_and_goes_on(opened: Machine) -> None:
    opened.serial.receive(b"ab")
    other = Machine()

    other.serial.restore(opened.serial.state())

    assert (other.line.edges, other.inb(IIR), other.drain()) == (1, 0xC4, b"ab")
    assert other.serial.state().interrupt_enable == 0x05


def test_port_put_back_to_an_earlier_state_raises_what_was_pending_then(opened: Machine) -> None:
    opened.serial.receive(b"ab")

    opened.serial.restore(opened.serial.state())

    assert opened.line.edges == 2


def test_restored_port_that_listens_asks_for_input_that_waits(
    machine: Machine, opened: Machine
) -> None:
    machine.serial.receive(b"waiting")

    machine.serial.restore(opened.serial.state())

    assert machine.space == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scratch": 256}, "scratch is 256, must be 0 to 255"),
        ({"divisor": -1}, "divisor is -1, must be 0 to 65535"),
        ({"overrun": 1}, "overrun is 1, must be bool"),
        ({"received": bytes(17)}, "received has 17 items, must have 0 to 16"),
    ],
)
def test_a_state_that_no_port_has_is_refused(
    machine: Machine, changes: dict[str, Any], message: str
) -> None:
    state = machine.serial.state()

    with pytest.raises(ConfigurationError, match=f"saved serial port: {message}"):
        machine.serial.restore(state._replace(**changes))
    assert machine.serial.state() == state


def test_host_and_guest_on_two_threads_lose_and_reorder_nothing() -> None:
    sent = bytes(range(256)) * 4
    space = threading.Semaphore(1)
    line_status_says_data = 0x01
    serial = Serial16550A(Line(), lambda data: None, space.release)
    serial.write(2, b"\x01")
    serial.write(1, b"\x01")
    received = bytearray()

    def guest() -> None:
        while len(received) < len(sent):
            if serial.read(5, 1)[0] & line_status_says_data:
                received.extend(serial.read(0, 1))

    thread = threading.Thread(target=guest, daemon=True)
    thread.start()
    position = 0
    while position < len(sent) and space.acquire(timeout=30):
        position += serial.receive(sent[position:])
    thread.join(30)

    assert bytes(received) == sent


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 255), st.booleans())))
def test_no_sequence_of_accesses_breaks_the_port(accesses: list[tuple[int, int, bool]]) -> None:
    machine = Machine()
    for offset, value, reads in accesses:
        machine.serial.receive(bytes((value, value)))
        machine.serial.write(offset, bytes((value,)))
        assert len(machine.serial.read(offset, 1 + reads)) == 1 + reads

    assert len(machine.serial.state().received) <= 16
    assert (machine.inb(LSR) & 0x60, machine.inb(IIR) & 0x30) == (0x60, 0)
