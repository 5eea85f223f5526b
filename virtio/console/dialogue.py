"""What the driver knows of the ports, and what it is told when that is no longer true.

VIRTIO 1.4 "Multiport Device Operation".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from virtio.console.control import (
    VIRTIO_CONSOLE_CONSOLE_PORT,
    VIRTIO_CONSOLE_DEVICE_ADD,
    VIRTIO_CONSOLE_DEVICE_READY,
    VIRTIO_CONSOLE_PORT_NAME,
    VIRTIO_CONSOLE_PORT_OPEN,
    VIRTIO_CONSOLE_PORT_READY,
    Message,
    Outbox,
)
from virtio.console.port import ConsolePort


class Dialogue:
    """The control messages of one driver, from DRIVER_OK to reset.

    ``outbox`` has what waits for buffers of the driver's. ``tells_size`` says whether the driver
    accepted SIZE.
    """

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.tells_size = False
        self._driver_ready = False
        self._announced: dict[int, ConsolePort] = {}
        self._ready: set[int] = set()

    def take(self, message: Message, ports: Mapping[int, ConsolePort]) -> set[int]:
        """Do what the driver says; returns the ports that it concerns, none for nonsense."""
        if message.event == VIRTIO_CONSOLE_DEVICE_READY:
            self._driver_ready = message.value == 1
            return set(ports)
        port = ports.get(message.port)
        if port is None:
            return set()
        if message.event == VIRTIO_CONSOLE_PORT_READY:
            self._port_ready(message.port, port, is_ready=message.value == 1)
        elif message.event == VIRTIO_CONSOLE_PORT_OPEN and message.port in self._announced:
            port.set_guest_open(bool(message.value))
        return {message.port}

    def update(self, number: int, port: ConsolePort | None) -> None:
        """Tell what the driver does not know of a port yet; ``port`` is what has the number now."""
        announced = self._announced.get(number)
        is_new = port is not announced
        if announced is not None and is_new:
            del self._announced[number]
            self._ready.discard(number)
            self.outbox.put_removal(number)
        if port is not None and is_new and self._driver_ready:
            self._announced[number] = port
            self.outbox.put(Message(number, VIRTIO_CONSOLE_DEVICE_ADD))
        if port is not None and number in self._ready:
            self._tell_news(number, port)

    def _port_ready(self, number: int, port: ConsolePort, *, is_ready: bool) -> None:
        """Tell all there is to know of a port that the driver set up, or gave up.

        A driver that wakes from hibernation is not told of its ports again and goes on with those
        that it had (Linux ``virtcons_restore``), so a port may be ready that was not announced.
        """
        if not is_ready:
            self._ready.discard(number)
            port.set_guest_open(False)
            return
        self._announced[number] = port
        self._ready.add(number)
        port.take_news()
        if port.console:
            self.outbox.put(Message(number, VIRTIO_CONSOLE_CONSOLE_PORT))
            self._tell_size(number, port)
        if port.name:
            self.outbox.put(Message(number, VIRTIO_CONSOLE_PORT_NAME, extra=port.name.encode()))
        self._tell_open(number, is_open=port.host_open)

    def _tell_news(self, number: int, port: ConsolePort) -> None:
        openings, resized = port.take_news()
        for is_open in openings:
            self._tell_open(number, is_open=is_open)
        if resized and port.console:
            self._tell_size(number, port)

    def _tell_open(self, number: int, *, is_open: bool) -> None:
        self.outbox.put(Message(number, VIRTIO_CONSOLE_PORT_OPEN, int(is_open)))

    def _tell_size(self, number: int, port: ConsolePort) -> None:
        # To port 0, too: with MULTIPORT Linux does not look at the configuration space for it.
        if self.tells_size:
            self.outbox.put(Message.resize(number, *port.size))

    def state(self) -> dict[str, Any]:
        """Return what was said and what waits, as plain values."""
        return {
            "driver_ready": self._driver_ready,
            "announced": tuple(self._announced),
            "ready": tuple(self._ready),
            "messages": self.outbox.state(),
        }

    def restore(self, state: dict[str, Any], ports: Mapping[int, ConsolePort]) -> None:
        """Take that over, for ports that have the numbers that they had."""
        self._driver_ready = state["driver_ready"]
        self._announced = {number: ports[number] for number in state["announced"]}
        self._ready = set(state["ready"])
        self.outbox = Outbox(Message(*one) for one in state["messages"])
