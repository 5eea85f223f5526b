"""The descriptors that an event loop watches, in an epoll set: epoll(7), level-triggered.

Level-triggered epoll and duplicated descriptors
------------------------------------------------

The problem. An entry of an epoll set is not a descriptor: it is the pair of a descriptor's number
and the *open file* behind that number (``struct epoll_filefd`` in Linux fs/eventpoll.c). It leaves
the set when the last reference to the open file goes, not when the number is closed (epoll(7),
"Questions and answers", 6). A duplicate may live on: from dup(2), in a child process, in a message
of unix(7). The entry is then a ghost. It goes on being reported, at once and in every round as long
as the file is ready, under a number that is closed or names another file by now; and nobody can
take it out, as EPOLL_CTL_DEL looks for the pair and the number no longer leads to that file (EBADF,
ENOENT). A loop with a ghost never sleeps again.

What does not work, and why. "Close takes it out of the set" is true without duplicates only.
Ignoring events of unknown numbers costs a processor. EPOLLET reports a ghost less often, and takes
from callbacks the right to leave something unread. EPOLLONESHOT costs a system call for each event.
To watch a duplicate of our own would make removal certain, since its number is ours alone. But that
keeps the file open: an owner who closes without removing, which does no harm today, would then
leave the other end without its hang-up, and the loop with a file to report for ever.

What we do. Ghosts betray themselves. Each change to the set tells epoll what we believe the number
to be, and the kernel compares the pair: EPOLL_CTL_DEL and EPOLL_CTL_MOD fail when the number was
closed or names another file. From then on the set is ``stale``, and the loop replaces it by a new
one before it waits again (:meth:`EpollSet.renew`). Into the new set goes what EPOLL_CTL_MOD still
finds in the old one, so no number that somebody else uses by now is taken for the one we were
given. A callback that raises makes the set stale as well: a closed descriptor is one reason to.

What remains. When an owner closes a descriptor without removing it, and a duplicate lives, the loop
cannot tell until the callback raises: it calls the callback in vain. And events that were fetched
before a removal may still be delivered. A removal that comes late, when the number is closed and
somebody else watches it again, takes their watch away: numbers name no owner, as in asyncio. So
callbacks must bear being called in vain, and owners must remove before they close.
"""

import select
import threading
from collections.abc import Callable
from typing import Final

from virtio.errors import HostError
from virtio.log import Logger
from vmm.host.resource import Resource

Callback = Callable[[], object]

READ_EVENTS: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
WRITE_EVENTS: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR

_log = Logger(__name__)


class EpollSet(Resource):
    """Says which watched descriptors are ready: ``poll(seconds, most)`` gives (number, events).

    ``readers`` and ``writers`` hold the callback of each watched number, for whoever polls.
    Descriptors come and go on any thread; one thread polls, and calls :meth:`renew` before that
    when the set is ``stale``. After :meth:`close` changes are ignored.
    """

    def __init__(self) -> None:
        self.readers: dict[int, Callback] = {}
        self.writers: dict[int, Callback] = {}
        self.stale = False
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self.poll = self._epoll.poll

    def close(self) -> None:
        """Close the set's own descriptor; those that it watches stay their owners'."""
        with self._lock:
            self._epoll.close()

    def add(self, table: dict[int, Callback], fd: int, callback: Callback) -> None:
        """Watch ``fd`` for ``table``, which is ``readers`` or ``writers``; replaces the callback.

        Raises HostError; EPERM means a file that is always ready and that epoll(7) refuses.
        """
        with self._lock:
            if self._epoll.closed:
                return
            if self._mask(fd) and not self._is_in_set(fd):
                self._forget(fd)
            table[fd] = callback
            try:
                self._put(fd)
            except OSError as error:
                del table[fd]
                detail = f"cannot watch descriptor {fd}"
                raise HostError("epoll_ctl", error.errno or 0, detail) from error

    def remove(self, table: dict[int, Callback], fd: int) -> None:
        """Stop watching ``fd`` for ``table``; harmless when it is not watched, or closed."""
        with self._lock:
            if table.pop(fd, None) is None or self._epoll.closed:
                return
            try:
                if mask := self._mask(fd):
                    self._epoll.modify(fd, mask)
                else:
                    self._epoll.unregister(fd)
            except OSError:
                self._forget(fd)

    def renew(self) -> None:
        """Replace the set by a new one without ghosts; on the thread that polls.

        Raises HostError when the host refuses one; the old set then stays.
        """
        with self._lock:
            self.stale = False
            if self._epoll.closed:
                return
            try:
                self._replace()
            except OSError as error:
                raise HostError("epoll_create1", error.errno or 0, "a new epoll set") from error

    def _replace(self) -> None:
        new = select.epoll()
        try:
            for fd in {*self.readers, *self.writers}:
                if self._is_in_set(fd):
                    new.register(fd, self._mask(fd))
                else:
                    _log.warning("descriptor %d was closed while it was watched", fd)
                    self._forget(fd)
        except BaseException:
            new.close()
            raise
        self._epoll.close()
        self._epoll, self.poll, self.stale = new, new.poll, False

    def _put(self, fd: int) -> None:
        try:
            self._epoll.register(fd, self._mask(fd))
        except FileExistsError:
            self._epoll.modify(fd, self._mask(fd))

    def _is_in_set(self, fd: int) -> bool:
        """Whether the number still leads to the open file that was put into the set with it."""
        try:
            self._epoll.modify(fd, self._mask(fd))
        except OSError:
            return False
        return True

    def _forget(self, fd: int) -> None:
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)
        self.stale = True

    def _mask(self, fd: int) -> int:
        mask = select.EPOLLIN if fd in self.readers else 0
        return mask | (select.EPOLLOUT if fd in self.writers else 0)
