"""The part that all virtio transports share: a device's life between registers and queues.

The status machine, feature negotiation, queues coming and going, reset, and saved state.
VIRTIO 1.4 "Device Initialization", "Device Reset", "Virtqueue Reset".
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from transport.device_queues import DeviceQueues, QueuePosition
from transport.interrupts import Interrupts
from transport.negotiation import FeatureNegotiation
from transport.queue_registers import QueueRegisters, make_queue_registers
from transport.report import Reporter
from transport.runner import DeviceRunner
from transport.state import TransportState, check_transport_state
from transport.stats import TransportStats
from transport.status import (
    STEPS,
    STOPPED,
    VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET,
    status_names,
)
from transport.tap import DeviceTap
from virtio.device.lifecycle import EventLoop, VirtioDevice
from virtio.errors import ConfigurationError, DriverError, Error
from virtio.features import VIRTIO_F_RING_RESET, mask
from virtio.memory import GuestMemory
from virtio.saved import shown

DESCRIBE_TIMEOUT_SECONDS: Final = 0.1

# The two locks of a transport
#
# Register accesses come from all virtual CPUs at once, while the thread that serves the device runs
# its handlers. A driver polls the status or acknowledges an interrupt on one processor while a
# request of another one is served: these must not wait for each other. But a reset, DRIVER_OK, and
# a queue that comes or goes must not meet device code that runs (see transport/runner.py).
#
# One lock does not work. If handlers held it, reading a register would take as long as the host's
# disk; and a handler that interrupts the driver would take it a second time. No lock for registers
# does not work either: two processors that write the halves of an address, each a read, a change
# and a write in Python, would lose one of them, and a saved state could mix before and after.
#
# So there are two. `_work` is held while device code runs, and so by everything that must not meet
# it: writes of status and configuration, queues coming and going, saved state. `_registers` is held
# for moments, around changes of what registers show. Nobody waits or calls device code under it.
# Reading a register takes neither: each shows one attribute, which is replaced as a whole.
#
# Order: `_work`, then `_registers`, then one of the innermost two: the device's `config_lock`, for
# fields and generation that processors read while the device changes them, or the lock that an
# Interrupts object may have. Under an innermost lock nothing is called that takes another.
#
# What remains: a processor that writes the status or a configuration field waits for the burst that
# is being served. A burst is bounded in chains, not in time: a device with a slow backend returns
# without waiting for it, and completes its chains from a callback.


class VirtioTransport:
    """One device on its transport; a subclass adds the registers and makes the ``interrupts``.

    ``loop`` is the machine's event loop, which takes calls from any thread. ``queues`` are the
    device's queues, each with an eventfd, ``notify_fd``: whoever adds to it notifies the device,
    and the machine calls ``serve`` of the queue when it can be read. ``poll_us`` is for how many
    microseconds the device may wait for the next request on the processor, where ``loop`` serves
    nobody else; a device with several queues does not. ``reached`` are the bits of the status that
    a driver has ever set. ``on_bug`` hears, under the device's work lock, what the code of a live
    device raised, and says whether somebody will mend it: the device is then suspended. Raises
    :class:`ConfigurationError` for a device whose features or queue sizes are impossible.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        interrupts: Interrupts,
        loop: EventLoop,
        *,
        name: str = "",
        poll_us: int = 0,
    ) -> None:
        self.device = device
        self.memory = memory
        self.interrupts = interrupts
        self.name = name or type(device).__name__
        self.report = Reporter(self.name)
        self.status = 0
        self.reached = 0
        self.queue_select = 0
        self.negotiation = FeatureNegotiation(device.device_features)
        self.queue_registers = make_queue_registers(device.queue_max_sizes)
        self._registers = threading.Lock()
        self._runner = DeviceRunner(device, len(self.queue_registers), loop, self._fail)
        self.queues = self._runner.queues
        self._device_queues = DeviceQueues(
            device, self.queue_registers, self._runner, interrupts.used, poll_us * 1000
        )
        self._work = self._runner.work
        self._guard = self._runner.guard
        self._closed = False
        self._tap: DeviceTap | None = None
        self.on_bug: Callable[[Exception], bool] | None = None
        self._device_queues.find()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the device for good and close the eventfds; harmless when repeated."""
        with self._work:
            if not self._closed:
                self._closed = True
                self._reset()
                self._runner.close()

    # Status

    def write_status(self, value: int) -> None:
        """Carry out a write to the device status; returns when it is done (``COM-22``).

        Zero resets. Else the bits that are new and in order are set one after the other, and none
        is ever cleared (``COM-06`` to ``COM-09``).
        """
        with self._work:
            if value == 0 and not self._closed:  # else the device may be on another transport
                self._reset()
            elif self._closed or self.status & STOPPED:
                self.report.dropped("status %#x while stopped at %#x", value, self.status)
            elif value & VIRTIO_CONFIG_S_FAILED:
                self._set_status(VIRTIO_CONFIG_S_FAILED)
                self._runner.stop()
                self.interrupts.disable()
            else:
                self._advance(value)

    def _advance(self, value: int) -> None:
        for bit, needed in STEPS:
            if not value & bit or self.status & bit:
                continue
            if self.status & needed != needed or not self._enter(bit):
                self.report.dropped("status %#x refused at %#x", value, self.status)
                return

    def _enter(self, bit: int) -> bool:
        if bit == VIRTIO_CONFIG_S_FEATURES_OK and not self._accept_features():
            return False
        self._set_status(bit)
        if bit == VIRTIO_CONFIG_S_DRIVER_OK:
            self._go_live()
        return True

    def _set_status(self, bit: int) -> None:
        with self._registers:
            before = self.status
            self.status |= bit
            self.reached |= bit
        self.report.note("status %s", status_names(self.status))
        if self._tap is not None:
            self._tap.status(before, self.status)

    def _go_live(self) -> None:
        self.interrupts.enable()
        self._runner.start(self.memory, self.features, self._notify_config)

    def _notify_config(self) -> None:
        if self._tap is not None:
            self._tap.configuration()
        self.interrupts.config()

    def _reset(self) -> None:
        if self.status:
            self.report.note("reset")
            if self._tap is not None:
                self._tap.reset()
        self._runner.hold()
        self.interrupts.reset()
        # The device before its queues: it may have to wait until the host lets go of buffers.
        self._guard(None, self.device.reset)
        self._runner.stop()
        self._guard(None, self._device_queues.find)
        with self._registers:
            self.negotiation.reset()
            self.queue_select = 0
            for registers in self.queue_registers:
                registers.set_defaults()
            self.status = 0

    # Features

    @property
    def features(self) -> int:
        """The negotiated feature set; empty before FEATURES_OK."""
        return self.negotiation.accepted if self.negotiation.frozen else 0

    def _accept_features(self) -> bool:
        # Frozen first: another virtual CPU must not change the set while it is looked at.
        with self._registers:
            self.negotiation.frozen = True
        accepted = self._guard(False, self._negotiate, self.negotiation.accepted)
        with self._registers:
            self.negotiation.frozen = accepted
        if self._tap is not None:
            offer = self.negotiation
            self._tap.features(offer.offered, offer.accepted, taken=accepted)
        return accepted

    def _negotiate(self, features: int) -> bool:
        if not self.negotiation.valid or not self.device.features_acceptable(features):
            return False
        self.device.negotiated(features)
        self._device_queues.find()
        return True

    # Configuration space

    def read_config(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the device's configuration space, zeros past its end."""
        try:
            with self.device.config_lock:
                return self.device.read_config(offset, length)
        except Exception as error:
            with self._work:
                self._fail(error)
            return bytes(length)

    def read_config_generation(self) -> int:
        """Return the version of the configuration space (``COM-27``)."""
        with self.device.config_lock:
            return self.device.config_generation

    def write_config(self, offset: int, data: bytes) -> None:
        """Pass a write to the configuration space on; waits for device code that is running."""
        with self._work:
            self._guard(None, self.device.write_config, offset, data)

    # Queues

    @property
    def selected_queue(self) -> QueueRegisters | None:
        """The queue that the queue registers speak of, if it exists (``MMIO-08``)."""
        index = self.queue_select
        if index < len(self.queue_registers) and self.queue_registers[index].max_size:
            return self.queue_registers[index]
        return None

    def enable_queue(self, registers: QueueRegisters) -> None:
        """Enable a queue, unless it is; an impossible geometry breaks the device (``MMIO-12``)."""
        with self._work:
            if registers.ready:
                return
            if not self.status & VIRTIO_CONFIG_S_FEATURES_OK or self.status & STOPPED:
                self.report.dropped("queue %d enabled at status %#x", registers.index, self.status)
                return
            queue = self._guard(None, registers.open, self.memory, self.features)
            if queue is not None:
                self._device_queues.install(queue)
                with self._registers:
                    registers.ready = True
                if self._tap is not None:
                    self._tap.queue(registers.index, registers.size)

    def disable_queue(self, registers: QueueRegisters) -> None:
        """Disable a queue; when this returns nothing touches its rings or buffers (``MMIO-16``)."""
        with self._work:
            self._disable(registers)

    def _disable(self, registers: QueueRegisters) -> None:
        self._device_queues.remove(registers.index)
        with self._registers:
            was_ready, registers.ready = registers.ready, False
        if was_ready and self._tap is not None:
            self._tap.queue(registers.index, 0)

    def reset_queue(self, registers: QueueRegisters) -> None:
        """Disable a queue and return it to its defaults; needs RING_RESET (``MMIO-34``)."""
        if not self.features & mask(VIRTIO_F_RING_RESET):
            self.report.dropped("queue %d reset without RING_RESET", registers.index)
            return
        registers.resetting = True
        with self._work:
            self._disable(registers)
            self.interrupts.forget_queue(registers.index)
            with self._registers:
                registers.set_defaults()

    # Notifications

    @property
    def notify_fds(self) -> list[int]:
        """The eventfd of each queue, by index."""
        return [queue.notify_fd for queue in self.queues]

    def notify(self, index: int) -> None:
        """Take a driver's notification that came through a register; returns at once."""
        if index >= len(self.queues) or not self.queues[index].notify():
            self.report.dropped("notification for queue %d, which is not live", index)

    def handle_notify(self, index: int) -> None:
        """Serve the queue whose eventfd can be read, for one burst; never raises."""
        self.queues[index].serve()

    def service(self) -> None:
        """Serve every notification that is pending, until there is none left."""
        while any(queue.serve() for queue in self.queues):
            pass

    def pause(self, *, paused: bool) -> None:
        """Keep the device from the guest's memory, or let it go on; registers answer all the time.

        When this returns with ``paused`` set, nothing touches a ring or a buffer. When the device
        goes on, it looks at every queue once (``PCI-20``).
        """
        with self._work:
            self._runner.pause(paused=paused)

    @property
    def paused(self) -> bool:
        """Whether the device is kept from the guest's memory."""
        return self._runner.paused

    # Watching

    def watch(self, tap: DeviceTap | None) -> None:
        """Tell ``tap`` what happens from now on, or nobody any more; while device code waits."""
        with self._work:
            self._tap = tap
            self.report.on_dropped = None if tap is None else tap.dropped
            self._runner.watch(tap)
            self._device_queues.watch(tap, self.interrupts)
            self._watch_messages(tap)

    def _watch_messages(self, tap: DeviceTap | None) -> None:
        """Tell ``tap`` of messages; a transport that sends some says how."""

    # Failure

    def _fail(self, error: Exception) -> None:
        """Set DEVICE_NEEDS_RESET, and tell a driver that is live (``COM-04``, ``COM-05``)."""
        if self._tap is not None:
            self._tap.failed(error)
        if self._is_to_be_mended(error):
            return
        self.report.failed(error, self.situation())
        self._runner.stop()
        self._set_status(VIRTIO_CONFIG_S_NEEDS_RESET)
        self._notify_config()

    def _is_to_be_mended(self, error: Exception) -> bool:
        """Suspend the device if ``on_bug`` says so: its own code is at fault, and it is live."""
        at_fault = self._runner.live and not isinstance(error, DriverError)
        if self.on_bug is None or not at_fault:
            return False
        self.report.note("suspended: %s", str(error))
        if self.suspended:  # the registers still ask it
            return True
        if not self.on_bug(error):
            return False
        self._runner.suspend()
        return True

    def returns(self, timeout: float) -> bool:
        """Wait for device code that is running; whether it returned in time."""
        returned = self._work.acquire(timeout=timeout)
        if returned:
            self._work.release()
        return returned

    @property
    def suspended(self) -> bool:
        """Whether the device failed, and keeps its chains until another takes its place."""
        return self._runner.suspended and self._runner.live

    def give_up(self, error: Exception) -> None:
        """Have a suspended device need a reset, as one that nobody mends."""
        with self._work:
            if self.suspended:
                self.on_bug = None
                self._fail(error)

    def situation(self) -> str:
        """Describe the device; never raises, as one that failed is described.

        The caller holds its work lock, as ``on_bug`` does.
        """
        try:
            return "\n".join([self._headline(), *self._device_queues.describe()])
        except Exception as error:
            return f"{self.name} cannot be described: {error!r}"

    @property
    def stats(self) -> TransportStats:
        """The counts until now."""
        traffic = [queue.traffic for queue in self.queues]
        return TransportStats(
            kicks=sum(queue.kicks for queue in self.queues),
            interrupts=self.interrupts.used_count,
            completions=sum(completed for completed, _, _ in traffic),
            bytes_read=sum(read for _, read, _ in traffic),
            bytes_written=sum(written for _, _, written in traffic),
            config_changes=self.interrupts.config_count,
        )

    def describe(self) -> list[str]:
        """Return a few lines on device and queues, for a person who looks for what went wrong."""
        if not self._work.acquire(timeout=DESCRIBE_TIMEOUT_SECONDS):
            return [self._headline(), "  a handler of the device has not returned"]
        try:
            return self.situation().split("\n")
        finally:
            self._work.release()

    def queue_positions(self) -> list[QueuePosition]:
        """Return where each queue is; none when a handler of the device does not return."""
        if not self._work.acquire(timeout=DESCRIBE_TIMEOUT_SECONDS):
            return []
        try:
            return self._device_queues.positions()
        finally:
            self._work.release()

    def _headline(self) -> str:
        stats = self.stats
        return (
            f"{self.name}: device type {self.device.device_id},"
            f" status {self.status:#x} ({status_names(self.status)}),"
            f" features {self.features:#x}, {self.interrupts.describe()},"
            f" {stats.kicks} kicks, {stats.interrupts} interrupts"
        )

    # Saved state

    @contextmanager
    def frozen(self) -> Iterator[TransportState]:
        """Give the state of transport and device, and let no device code run in the block.

        Waits for device code that is running: the state is that between two pieces of work.
        """
        with self._work:
            device = self.device.state()
            with self._registers:
                state = TransportState(
                    status=self.status,
                    features=self.negotiation.state(),
                    queue_select=self.queue_select,
                    interrupts=self.interrupts.state(),
                    queues=self._device_queues.state(),
                    device=device,
                )
            yield state

    def state(self) -> TransportState:
        """Return the state of transport and device, as it is between two pieces of work."""
        with self.frozen() as state:
            return state

    def restore(self, state: TransportState) -> None:
        """Restore a saved state, and go on with every queue that was live (``SPL-46``).

        Guest memory must have its content of that time. Raises :class:`ConfigurationError` when
        this cannot be the device that was saved.
        """
        check_transport_state(self.name, state)
        if len(state.queues) != len(self.queues):
            raise ConfigurationError(
                f"{self.name}: the saved state has {len(state.queues)} queues,"
                f" the device {len(self.queues)}; restore it to the device that was saved"
            )
        with self._work:
            self._reset()
            self.negotiation.restore(state.features)
            self._restore_device(state)
            self._device_queues.find()
            self._device_queues.restore(state.queues, self.memory)
            self.queue_select = state.queue_select
            self.status = self.reached = state.status
            self.interrupts.restore(state.interrupts)
            if state.status & VIRTIO_CONFIG_S_DRIVER_OK and not state.status & STOPPED:
                self._go_live()

    def _restore_device(self, state: TransportState) -> None:
        """Let the device restore its state, the form of which only the device knows."""
        try:
            if state.status & VIRTIO_CONFIG_S_FEATURES_OK and not self._negotiate(self.features):
                raise ConfigurationError(
                    f"saved {self.name}: features {self.features:#x} cannot have been accepted"
                )
            self.device.restore(state.device)
        except Error:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"saved {self.name}: the device does not take its state: {shown(error)}"
            ) from error
