"""What every virtio transport shares: a device's life between a driver's registers and its queues.

The status machine, feature negotiation, queues coming and going, reset, and saved state.
VIRTIO 1.4 "Device Initialization", "Device Reset", "Virtqueue Reset".
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self

from transport.interrupts import Interrupts
from transport.negotiation import FeatureNegotiation
from transport.queue_slot import QueueSlot, make_slots
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
from virtio.device.lifecycle import EventLoop, VirtioDevice
from virtio.errors import ConfigurationError, Error
from virtio.features import VIRTIO_F_RING_RESET, mask
from virtio.memory import GuestMemory
from virtio.saved import shown
from virtio.virtqueue.queue import Queue

DESCRIBE_TIMEOUT_SECONDS: Final = 0.1


class VirtioTransport:
    """One device on its transport; a subclass adds the registers and makes the ``interrupts``.

    ``loop`` is the machine's event loop, which takes calls from any thread. ``notify_fds`` holds an
    eventfd per queue: whoever adds to one notifies the device, and the machine calls
    :meth:`handle_notify` when it can be read. ``poll_us`` is for how many microseconds the device
    may wait for the next request on the processor, where ``loop`` serves nobody else; one with
    several queues does not. Raises :class:`ConfigurationError` for a device whose features or queue
    sizes are impossible.

    Two locks. ``_registers`` guards what registers show and is held for moments; it never waits for
    a device. ``_work`` is held while device code runs, and so by whatever must not meet running
    device code: reset, activation, a queue coming or going. Order: ``_work`` first. The device's
    ``config_lock`` is innermost of all.
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
        self._poll_ns = poll_us * 1000
        self.memory = memory
        self.name = name or type(device).__name__
        self.report = Reporter(self.name)
        self._counts = TransportStats()
        self.status = 0
        self.queue_select = 0
        self.negotiation = FeatureNegotiation(device.device_features)
        self._registers = threading.Lock()
        self.interrupts = interrupts
        with ExitStack() as files:
            self.slots = make_slots(device.queue_max_sizes, files)
            self._files = files.pop_all()
        self.notify_fds = [slot.event.fd for slot in self.slots]
        self._runner = DeviceRunner(device, self.slots, loop, self._counts, self._fail)
        self._work = self._runner.work
        self._guard = self._runner.guard
        self._closed = False
        self._find_queues()

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
                self._files.close()

    # Status

    def write_status(self, value: int) -> None:
        """Take a write to the device status; returns when it is carried out (``COM-22``).

        Zero resets. Else the bits that are new and in order are set one after the other, and none
        is ever cleared (``COM-06`` to ``COM-09``).
        """
        with self._work:
            if value == 0:
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
            self.status |= bit
        self.report.note("status %s", status_names(self.status))

    def _go_live(self) -> None:
        self.interrupts.enable()
        self._runner.start(self.memory, self.features, self.interrupts.config)

    def _reset(self) -> None:
        if self.status:
            self.report.note("reset")
        self._runner.hold()
        self.interrupts.reset()
        # The device before its queues: it may have to wait until the host lets go of buffers.
        self._guard(None, self.device.reset)
        self._runner.stop()
        self._guard(None, self._find_queues)
        with self._registers:
            self.negotiation.reset()
            self.queue_select = 0
            for slot in self.slots:
                slot.set_defaults()
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
        return accepted

    def _negotiate(self, features: int) -> bool:
        if not self.negotiation.valid or not self.device.features_acceptable(features):
            return False
        self.device.negotiated(features)
        self._find_queues()
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
    def selected_queue(self) -> QueueSlot | None:
        """The queue that the queue registers speak of, if it exists (``MMIO-08``)."""
        index = self.queue_select
        if index < len(self.slots) and self.slots[index].max_size:
            return self.slots[index]
        return None

    def _find_queues(self) -> None:
        for slot in self.slots:
            slot.set_max_size(self.device.queue_max_size(slot.index))

    def enable_queue(self, slot: QueueSlot) -> None:
        """Enable a queue, unless it is; an impossible geometry breaks the device (``MMIO-12``)."""
        with self._work:
            if slot.ready:
                return
            if not self.status & VIRTIO_CONFIG_S_FEATURES_OK or self.status & STOPPED:
                self.report.dropped("queue %d enabled at status %#x", slot.index, self.status)
                return
            queue = self._guard(None, slot.open, self.memory, self.features)
            if queue is not None:
                self._install(slot, queue)

    def _install(self, slot: QueueSlot, queue: Queue) -> None:
        self._connect(queue)
        with self._registers:
            slot.queue = queue
            slot.ready = True
        if self._runner.live:
            self._guard(None, self.device.enable_queue, slot.index, queue)
            self._runner.serve_soon(slot)

    def _connect(self, queue: Queue) -> None:
        queue.interrupt = partial(self.interrupts.used, queue.index)
        if sum(slot.max_size > 0 for slot in self.slots) == 1:  # else the others would wait, too
            queue.poll_ns = self._poll_ns

    def disable_queue(self, slot: QueueSlot) -> None:
        """Disable a queue; after it nothing touches its rings or buffers (``MMIO-16``)."""
        with self._work:
            self._disable(slot)

    def _disable(self, slot: QueueSlot) -> None:
        if self._runner.live and slot.queue is not None:
            self._guard(None, self.device.disable_queue, slot.index)
        slot.stop()
        with self._registers:
            slot.ready = False

    def reset_queue(self, slot: QueueSlot) -> None:
        """Disable a queue and return it to its defaults; needs RING_RESET (``MMIO-34``)."""
        if not self.features & mask(VIRTIO_F_RING_RESET):
            self.report.dropped("queue %d reset without RING_RESET", slot.index)
            return
        slot.resetting = True
        with self._work:
            self._disable(slot)
            with self._registers:
                slot.set_defaults()

    # Notifications

    def notify(self, index: int) -> None:
        """Take a driver's notification that came through a register; returns at once."""
        if self._runner.live and index < len(self.slots) and self.slots[index].queue is not None:
            self.slots[index].event.signal()
        else:
            self.report.dropped("notification for queue %d, which is not live", index)

    def handle_notify(self, index: int) -> None:
        """Serve the queue whose eventfd can be read, for one burst; never raises."""
        self._runner.serve(self.slots[index])

    def service(self) -> None:
        """Serve every notification that is pending, until there is none left."""
        while any(self._runner.serve(slot) for slot in self.slots):
            pass

    # Failure

    def _fail(self, error: Exception) -> None:
        """Set DEVICE_NEEDS_RESET, and tell a driver that is live (``COM-04``, ``COM-05``)."""
        self.report.failed(error, self._situation())
        self._runner.stop()
        self._set_status(VIRTIO_CONFIG_S_NEEDS_RESET)
        self.interrupts.config()

    def _situation(self) -> str:
        """Describe the device that failed; a description that fails, too, is said to have."""
        try:
            return "\n".join(self._description())
        except Exception as error:
            return f"{self.name} cannot be described: {error!r}"

    @property
    def stats(self) -> TransportStats:
        """What was counted until now."""
        traffic = [slot.traffic for slot in self.slots]
        completions, read, written = (sum(counts) for counts in zip(*traffic, strict=True))
        return replace(
            self._counts,
            interrupts=self.interrupts.used_count,
            completions=completions,
            bytes_read=read,
            bytes_written=written,
            config_changes=self.interrupts.config_count,
        )

    def describe(self) -> list[str]:
        """Return a few lines on device and queues, for a person who looks for what went wrong."""
        if not self._work.acquire(timeout=DESCRIBE_TIMEOUT_SECONDS):
            return [self._headline(), "  a handler of the device has not returned"]
        try:
            return self._situation().split("\n")
        finally:
            self._work.release()

    def _description(self) -> list[str]:
        touched = [slot for slot in self.slots if not slot.is_untouched]
        lines = [self._headline(), *(f"  {slot.describe()}" for slot in touched)]
        if untouched := len(self.slots) - len(touched):
            lines.append(f"  not used yet: {untouched} of {len(self.slots)} queues")
        return lines

    def _headline(self) -> str:
        return (
            f"{self.name}: device type {self.device.device_id},"
            f" status {self.status:#x} ({status_names(self.status)}),"
            f" features {self.features:#x}, {self.interrupts.describe()},"
            f" {self._counts.kicks} kicks, {self.interrupts.used_count} interrupts"
        )

    # Saved state

    @contextmanager
    def frozen(self) -> Iterator[TransportState]:
        """Give all of the transport and its device, and let no device code run in the block.

        What runs is waited for: the state is that between two pieces of work.
        """
        with self._work:
            device = self.device.state()
            with self._registers:
                state = TransportState(
                    status=self.status,
                    features=self.negotiation.state(),
                    queue_select=self.queue_select,
                    interrupts=self.interrupts.state(),
                    queues=tuple(slot.state() for slot in self.slots),
                    device=device,
                )
            yield state

    def state(self) -> TransportState:
        """Return all of the transport and its device, as they are between two pieces of work."""
        with self.frozen() as state:
            return state

    def restore(self, state: TransportState) -> None:
        """Take over a saved state, and go on with every queue that was live (``SPL-46``).

        Guest memory must have its content of that time. Raises :class:`ConfigurationError` when
        this cannot be the device that was saved.
        """
        check_transport_state(self.name, state)
        if len(state.queues) != len(self.slots):
            raise ConfigurationError(
                f"{self.name}: the saved state has {len(state.queues)} queues,"
                f" the device {len(self.slots)}; restore it to the device that was saved"
            )
        with self._work:
            self._reset()
            self.negotiation.restore(state.features)
            self._restore_device(state)
            self._find_queues()
            self._restore_queues(state)
            self.status = state.status
            self.interrupts.restore(state.interrupts)
            if state.status & VIRTIO_CONFIG_S_DRIVER_OK and not state.status & STOPPED:
                self._go_live()

    def _restore_device(self, state: TransportState) -> None:
        """Let the device take its state, which only the device knows the form of."""
        try:
            if state.status & VIRTIO_CONFIG_S_FEATURES_OK:
                if not self.negotiation.valid or not self.device.features_acceptable(self.features):
                    raise ConfigurationError(
                        f"saved {self.name}: features {self.features:#x} cannot have been accepted"
                    )
                self.device.negotiated(self.features)
            self.device.restore(state.device)
        except Error:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"saved {self.name}: the device does not take its state: {shown(error)}"
            ) from error

    def _restore_queues(self, state: TransportState) -> None:
        self.queue_select = state.queue_select
        for slot, saved in zip(self.slots, state.queues, strict=True):
            slot.restore(saved, self.memory)
            if slot.queue is not None:
                self._connect(slot.queue)
