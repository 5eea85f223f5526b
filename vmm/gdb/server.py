"""Serves a debugger by GDB's remote protocol, on a thread of its own.

One debugger at a time: a second one that connects is sent away. One that goes, by a word or by a
broken connection, leaves a guest that runs on without breakpoints.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from virtio.log import Logger
from vmm.gdb.monitor import MonitorCommands
from vmm.gdb.packet import ACK, INTERRUPT, NAK, BadPacket, PacketReader, packet
from vmm.gdb.place import Listener
from vmm.gdb.session import Session
from vmm.gdb.target import MachineTarget
from vmm.host.resource import Resource
from vmm.host.threads import start_thread

if TYPE_CHECKING:
    from vmm.ending.ending import Ending
    from vmm.machine import Machine

logger = Logger(__name__)

_READ_BYTES: Final = 1 << 16
_SEND_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 0.2
_LAST_READS: Final = 8


class GdbServer(Resource):
    """Awaits a debugger for ``machine`` at ``listener``, from :meth:`start` on."""

    def __init__(self, machine: Machine, listener: Listener) -> None:
        self._target = MachineTarget(machine)
        self._listener = listener
        self._commands = MonitorCommands(self._target)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._connection: _Connection | None = None
        self._thread = threading.Thread(target=self._main, name="gdb", daemon=True)
        listener.socket.setblocking(False)

    @property
    def address(self) -> str:
        """Where it listens, as GDB's ``target remote`` takes it."""
        return self._listener.address

    @property
    def waits(self) -> bool:
        """Whether the guest is to wait for a debugger."""
        return self._listener.place.waits

    @property
    def target(self) -> MachineTarget:
        """The machine as the debugger sees it."""
        return self._target

    def start(self) -> None:
        """Begin to serve."""
        start_thread(self._thread)

    def stop(self) -> None:
        """Send a debugger away, and let in none; harmless the second time."""
        if self._stop_fd >= 0:
            os.eventfd_write(self._stop_fd, 1)
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop, and give back the descriptors; the vCPUs are still there."""
        if self._stop_fd < 0:
            return
        self.stop()
        self._target.close()
        os.close(self._stop_fd)
        self._stop_fd = -1

    def linger(self, ending: Ending) -> None:
        """Keep a machine that has ended for an attached debugger; see :class:`MachineTarget`."""
        self._target.linger(ending)

    def keep(self, ending: Ending) -> None:
        """Tell the debugger of the end; the vCPUs of a guest that crashed are held for it.

        An end that is not the guest's doing may come from a signal handler.
        """
        if self._target.stays(ending):
            self._target.hold_crashed()
        self._target.tell_end()

    def give_up(self) -> None:
        """Keep an ended machine no longer, also from a signal handler."""
        self._target.give_up()

    def _main(self) -> None:
        try:
            while self._serve_once():
                pass
        except Exception:
            logger.exception("debugger: a bug in serving it")
        finally:
            self._end_connection()

    def _serve_once(self) -> bool:
        """Wait for the next event and serve it; False when it is time to stop."""
        poll = select.poll()
        poll.register(self._stop_fd, select.POLLIN)
        poll.register(self._listener.socket, select.POLLIN)
        poll.register(self._target.wake, select.POLLIN)
        connection = self._connection
        if connection is not None:
            poll.register(connection.socket, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if self._stop_fd in ready:
            return False
        try:
            if connection is not None and connection.socket.fileno() in ready:
                connection.read()
            if connection is not None and self._target.wake in ready:
                connection.look()
        except OSError as error:
            logger.info("debugger: the connection broke: %s", error)
            self._end_connection()
        if connection is not None and connection.session.over:
            self._end_connection()
        if self._listener.socket.fileno() in ready:
            self._accept()
        return True

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.socket.accept()
        except OSError:  # it has gone already
            return
        if self._connection is not None:
            logger.warning("debugger: a second one is sent away; one is attached")
            sock.close()
            return
        sock.settimeout(_SEND_SECONDS)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = Session(self._target, self._target.attach(), self._commands.run)
        self._connection = _Connection(sock, session, self._target)

    def _end_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._target.detach()
            connection.close()


class _Connection:
    """A debugger's connection: bytes to packets, and back."""

    def __init__(self, sock: socket.socket, session: Session, target: MachineTarget) -> None:
        self.socket = sock
        self.session = session
        self._target = target
        self._reader = PacketReader()
        self._last = b""

    def close(self) -> None:
        """Close the connection so that the other end gets all that was sent.

        A socket that is closed with something unread in it, such as a last acknowledgement, has the
        other end forget what it has not read yet.
        """
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(_CLOSE_SECONDS)
            for _ in range(_LAST_READS):
                if not self.socket.recv(_READ_BYTES):
                    break
        self.socket.close()

    def read(self) -> None:
        """Answer what the debugger has sent; raises OSError when it is gone."""
        data = self.socket.recv(_READ_BYTES)
        if not data:
            self.session.over = True
            return
        for one in self._reader.feed(data):
            self._take(one)
            if self.session.over:
                return

    def look(self) -> None:
        """Tell a waiting debugger that the machine stopped, if it did, or ended."""
        stop = self._target.next_stop()
        ending = self._target.ending
        if stop is not None and self.session.running:
            self._send(self.session.stopped(stop))
        elif ending is not None:
            if self.session.running:
                self._send(self.session.ended(ending))
            if not self._target.stays(ending):
                self.session.over = True

    def _take(self, one: bytes | BadPacket) -> None:
        if isinstance(one, BadPacket):
            if self.session.acknowledges:
                self.socket.sendall(NAK)
        elif one == NAK:
            self.socket.sendall(self._last)
        elif one == INTERRUPT:
            told = self.session.interrupt()
            if told is not None:
                self._send(told)
        elif one != ACK:
            if self.session.acknowledges:
                self.socket.sendall(ACK)
            answer = self.session.answer(one[1:])
            if answer is not None:
                self._send(answer)

    def _send(self, content: bytes) -> None:
        self._last = packet(content)
        self.socket.sendall(self._last)
