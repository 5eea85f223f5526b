"""An NBD server as its users see it: each call waits for its answer, and by policy for the server.

One thread, which starts with the first call, has the connection to itself. A call hands it a
command and waits; so nobody hangs but these callers when a server dies or says nothing, and they
are threads of the block device that nobody waits for (``virtio/device/calls.py``).

A server that closes the connection, or has not answered a command in ``timeout`` seconds, is lost:
the connection is closed, which takes back the memory of all commands, and made anew after a while.
By the policy ``fail`` all commands then fail with EIO until the server is back. By ``wait`` they
are given again to the new connection; writing the same twice does no harm.

What a lost server had written, and not yet made stable, may be lost with it. By ``fail`` the next
flush therefore fails, and the block device lets none succeed after that (``BLK-25``). Who chooses
``wait`` relies on a server that keeps what it has taken, as one does that was merely out of reach.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.disk.nbd.connection import Command, Connection, Export, LostError
from vmm.disk.nbd.connector import Connector
from vmm.disk.nbd.place import NbdPlace
from vmm.host.resource import Resource
from vmm.host.threads import start_thread

if TYPE_CHECKING:
    from vmm.disk.disk import OnError

logger = Logger(__name__)

CONNECT_SECONDS: Final = 10.0
MOST_UNDER_WAY: Final = 64
PAUSE_SECONDS: Final = 0.5
"""How long after a loss, or a failed attempt, the next attempt comes."""


class _Call:
    """A command that somebody waits for."""

    __slots__ = ("command", "done", "error", "patient")

    def __init__(self, command: Command, *, patient: bool) -> None:
        self.command = command
        self.patient = patient
        self.error: OSError | None = None
        self.done = threading.Event()


class NbdServer(Resource):
    """Connects to an export, and makes calls; closed by its last owner.

    ``timeout`` is in seconds. A server that is started for this machine alone (``socket_fd``, a
    connected socket) is not connected to again. Raises :class:`ConfigurationError` when there is no
    such server, or no such export.
    """

    def __init__(
        self,
        place: NbdPlace,
        name: str,
        *,
        on_error: OnError = "fail",
        timeout: float = 30.0,
        socket_fd: int | None = None,
    ) -> None:
        self.name = name
        self._place = place.absolute
        self._patient = on_error == "wait" and socket_fd is None
        self._timeout = timeout
        self._owners = 1
        self._lock = threading.Lock()
        self._handed: deque[_Call] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._unstable = False
        self._may_have_lost = False
        self._calls: dict[Command, _Call] = {}
        self._again_at = 0.0
        self._asked = False
        self._told = False
        self._connection: Connection | None = self._first_connection(socket_fd)
        self._connector: Connector | None = None
        try:
            self.export: Export = self._connection.export()
            if socket_fd is None:
                self._connector = Connector(self._place)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._connection.close()
            if self._connector is not None:
                self._connector.close()
            raise

    def _first_connection(self, socket_fd: int | None) -> Connection:
        fd = socket_fd
        try:
            if fd is None:
                fd = self._place.connect(CONNECT_SECONDS).detach()
            made = Connection(fd, self._place.export)
            try:
                made.get_ready(CONNECT_SECONDS)
            except BaseException:
                made.close()
                raise
        except LostError as error:
            raise ConfigurationError(f"disk {self.name}: the NBD server: {error}") from None
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigurationError(f"disk {self.name}: no NBD server there: {why}") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"disk {self.name}: {error}") from None
        return made

    def own(self) -> NbdServer:
        """Return the server for another owner, who closes it, too."""
        with self._lock:
            self._owners += 1
        return self

    def call(self, command: Command, *, patient: bool = True) -> None:
        """Make a call, and return when it is done. Raises :class:`OSError`.

        One that is not ``patient`` fails when the server is lost, whatever the policy.
        """
        call = _Call(command, patient=patient and self._patient)
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the disk is closed")
            self._handed.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nbd", daemon=True)
                try:
                    start_thread(self._thread)
                except RuntimeError:
                    self._thread = None
                    self._handed.pop()
                    raise OSError(errno.EAGAIN, "the host gives no thread for it") from None
        self._wake_up()
        call.done.wait()
        if call.error is not None:
            raise call.error

    def close(self) -> None:
        """Leave the server when this is the last owner; calls under way fail."""
        with self._lock:
            self._owners -= 1
            if self._owners > 0 or self._closed:
                return
            self._closed = True
            thread = self._thread
        if thread is None:
            self._give_back()
        else:
            self._wake_up()
        self._left()

    def _left(self) -> None:
        """Wait for the server, if it is one that ends with us."""

    def _wake_up(self) -> None:
        with self._lock:
            if self._wake >= 0:  # else the thread has ended
                os.eventfd_write(self._wake, 1)

    # On the thread

    def _run(self) -> None:
        try:
            while not self._closed:
                self._turn()
        finally:
            self._closed = True
            self._give_back()

    def _turn(self) -> None:
        waiting = self._take_calls()
        try:
            if self._connection is None:
                self._connect_again()
            elif self._connection.is_ready:
                for command in waiting:
                    self._give(command)
            self._wait()
        except LostError as lost:
            self._lose(str(lost))

    def _take_calls(self) -> list[Command]:
        """Return commands that can be given to the server; without one, those with no patience
        fail.
        """
        with self._lock:
            while self._handed:
                call = self._handed.popleft()
                self._calls[call.command] = call
        connection = self._connection
        if connection is None or not connection.is_ready:
            self._fail([call for call in self._calls.values() if not call.patient], "is lost")
            return []
        under_way = connection.under_way
        given = set(under_way.values())
        waiting = [one for one in self._calls if one not in given]
        return waiting[: MOST_UNDER_WAY - len(given)]

    def _give(self, command: Command) -> None:
        assert self._connection is not None
        if command.kind == "flush" and self._may_have_lost:
            # Told once; from then on the block device knows.
            self._may_have_lost = False
            self._end(command, OSError(errno.EIO, f"{self.name}: writes were lost with the server"))
            return
        self._connection.give(command)

    def _wait(self) -> None:
        """Wait until there is something to do, and do it."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        connection, fd = self._connection, -1
        if connection is not None:
            fd, events = connection.waits_for()
            poll.register(fd, events)
        elif self._connector is not None and self._asked:
            poll.register(self._connector.fd, select.POLLIN)
        found = dict(poll.poll(self._patience_ms()))
        if found.pop(self._wake, 0):
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        if connection is not None:
            if fd in found:
                connection.serve(found[fd])
            self._answered(connection)
        elif found:
            self._take_connection()

    def _patience_ms(self) -> float | None:
        now, connection = time.monotonic(), self._connection
        if connection is None:
            if self._asked or self._connector is None:
                return None
            return max(0.0, self._again_at - now) * 1000 + 1
        began = self._oldest(connection)
        return None if began is None else max(0.0, began + self._timeout - now) * 1000 + 1

    def _oldest(self, connection: Connection) -> float | None:
        """Return since when something is waited for."""
        if not connection.is_ready:
            return self._again_at - PAUSE_SECONDS
        return min((one.began for one in connection.under_way.values()), default=None)

    def _answered(self, connection: Connection) -> None:
        for command in connection.ended():
            error = None
            if command.error:
                error = OSError(command.error, f"{self.name}: {os.strerror(command.error)}")
            elif command.kind == "flush":
                self._unstable = False
            elif command.kind != "read":
                self._unstable = True
            self._end(command, error)
        began = self._oldest(connection)
        if began is not None and time.monotonic() >= began + self._timeout:
            raise LostError(f"no answer within {self._timeout:g} s")
        if connection.is_ready and self._told:
            self._check_again(connection)

    def _check_again(self, connection: Connection) -> None:
        """Use a server that has come back, if its export is the one it was."""
        export = connection.export()
        if export.size_bytes != self.export.size_bytes or (
            export.read_only and not self.export.read_only
        ):
            raise LostError("its export is another one now")
        self._told = self._asked = False
        logger.warning("disk %s: the NBD server is back", self.name)

    def _lose(self, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # which takes back the memory of its commands
        self._may_have_lost |= self._unstable and not self._patient
        self._unstable = False
        if not self._told:
            self._told = True
            logger.warning(
                "disk %s: the NBD server is lost: %s; requests %s",
                self.name,
                why,
                "wait for it" if self._patient else "fail",
            )
        self._again_at = time.monotonic() + PAUSE_SECONDS
        self._asked = False
        self._fail([one for one in self._calls.values() if not one.patient], why)

    def _connect_again(self) -> None:
        connector = self._connector
        if connector is None or self._asked or time.monotonic() < self._again_at:
            return
        try:
            connector.ask()
        except OSError:
            self._give_up_connecting()
            return
        self._asked = True

    def _take_connection(self) -> None:
        """Begin with a connection that the connector brings, or try again later."""
        assert self._connector is not None
        self._again_at = time.monotonic() + PAUSE_SECONDS
        try:
            fd = self._connector.answer()
        except OSError as error:
            self._asked = False
            if not error.errno:
                self._give_up_connecting()
            return
        self._connection = connection = Connection(fd, self._place.export)
        if connection.is_ready:
            self._check_again(connection)

    def _give_up_connecting(self) -> None:
        """Do without the process that connects: it has gone."""
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.close()
        self._patient = False
        self._fail(list(self._calls.values()), "is lost for good")

    def _end(self, command: Command, error: OSError | None) -> None:
        call = self._calls.pop(command)
        call.error = error
        call.done.set()

    def _fail(self, calls: list[_Call], why: str) -> None:
        for call in calls:
            self._end(call.command, OSError(errno.EIO, f"{self.name}: the NBD server: {why}"))

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._connector is not None:
            self._connector.close()
        with self._lock:
            while self._handed:
                call = self._handed.popleft()
                self._calls[call.command] = call
            os.close(self._wake)
            self._wake = -1
        for call in list(self._calls.values()):
            self._end(call.command, OSError(errno.EBADF, "the disk is closed"))
