"""A tap: the guest's frames on an interface of the host. Linux ``networking/tuntap.rst``.

Packets go as they are, with virtio's own header, so that checksums and the cutting of large frames
are left to the host's kernel, or to its network card.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from fcntl import ioctl
from struct import Struct
from typing import Final

from virtio.errors import ConfigurationError, HostError
from virtio.net.lending import Descriptor
from virtio.net.packet import CSUM, ECN, EVERYTHING, HEADER_BYTES, MAX_PACKET_BYTES, PLAIN, USO
from vmm.net.watched import WatchedBackend

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNGETIFF: Final = 0x800454D2
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETQUEUE: Final = 0x400454D9
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x0200, 0x0400

DEVICE: Final = "/dev/net/tun"
AT_ONCE: Final = 64
NAME_BYTES: Final = 15
REQUEST: Final = Struct("16sH22x")
"""struct ifreq: name and flags."""
assert REQUEST.size == 40

_GONE: Final = (errno.EBADFD, errno.ENODEV)


class TapNetwork(WatchedBackend):
    """Packets through a tap, a descriptor for each queue pair, which it closes."""

    def __init__(self, fds: Sequence[int], name: str) -> None:
        super().__init__(name, fds)
        self._buffer = bytearray(MAX_PACKET_BYTES)
        self.takes = EVERYTHING if self._offer(EVERYTHING) else EVERYTHING & ~USO
        self._offer(0)
        for fd in fds:
            os.set_blocking(fd, False)
            ioctl(fd, TUNSETVNETHDRSZ, HEADER_BYTES.to_bytes(4, "little"))

    def send(self, packets: Sequence[bytes], pair: int) -> int:
        """Write packets; those that the interface, being down, does not take are gone."""
        if self._failed:
            return len(packets)
        write, fd = os.write, self.fds[pair]
        for number, packet in enumerate(packets):
            try:
                write(fd, packet)
            except BlockingIOError:
                if self._loop is not None:
                    self._loop.add_writer(fd, lambda: self._writable(pair))
                return number
            except OSError as error:
                if error.errno in _GONE:
                    self.fail(os.strerror(error.errno))
        return len(packets)

    def descriptor(self, pair: int) -> Descriptor:
        """Return the descriptor of a pair."""
        return Descriptor(self.fds[pair], framed=False)

    def _writable(self, pair: int) -> None:
        if self._loop is not None:
            self._loop.remove_writer(self.fds[pair])
        if self._end is not None:
            self._end.space(pair)

    def read_packets(self, pair: int) -> list[bytes]:
        """Return the packets that are there."""
        read, fd, buffer, packets = os.readv, self.fds[pair], self._buffer, list[bytes]()
        # The kernel leaves the bytes of num_buffers as they are.
        buffer[:HEADER_BYTES] = PLAIN
        try:
            for _ in range(AT_ONCE):
                packets.append(bytes(memoryview(buffer)[: read(fd, [buffer])]))
        except BlockingIOError:
            pass
        return packets

    def set_offloads(self, mask: int, pairs: int) -> None:
        """Have the kernel leave packets unfinished as the guest takes them."""
        if not self._offer(mask):
            self._offer(mask & ~(USO | ECN) if mask & CSUM else 0)
        for number, fd in enumerate(self.fds[1:], 1):
            flag = IFF_ATTACH_QUEUE if number < pairs else IFF_DETACH_QUEUE
            try:
                ioctl(fd, TUNSETQUEUE, REQUEST.pack(b"", flag))
            except OSError:  # it is so already
                continue

    def _offer(self, mask: int) -> bool:
        try:
            ioctl(self.fds[0], TUNSETOFFLOAD, mask if mask & CSUM else 0)
        except OSError:
            return False
        return True


def open_tap(name: str, pairs: int) -> list[int]:
    """Return descriptors of the interface ``name``, one for each pair; it is made if it may be.

    Raises :class:`ConfigurationError` for a name that is none, :class:`HostError` when the host
    refuses.
    """
    if not 0 < len(name.encode()) <= NAME_BYTES or "/" in name or name in (".", ".."):
        raise ConfigurationError(f"net tap={name}: a name has 1 to {NAME_BYTES} bytes, no slash")
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if pairs > 1 else 0)
    fds: list[int] = []
    try:
        for _ in range(pairs):
            fds.append(_open_device())
            ioctl(fds[-1], TUNSETIFF, REQUEST.pack(name.encode(), flags))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise HostError("TUNSETIFF", error.errno or 0, _advice(name, pairs, error)) from None
    return fds


def check_tap(fd: int) -> int:
    """Return a descriptor of the user's after a look at what it is.

    Raises :class:`ConfigurationError` unless it is a tap whose packets have virtio's header.
    """
    try:
        answer = ioctl(fd, TUNGETIFF, bytes(REQUEST.size))
    except OSError:
        os.close(fd)
        raise ConfigurationError("net tap=fd: the descriptor must be one of a tap") from None
    _, flags = REQUEST.unpack(answer)
    if not flags & IFF_TAP or not flags & IFF_VNET_HDR or not flags & IFF_NO_PI:
        os.close(fd)
        raise ConfigurationError("net tap=fd: it must have IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")
    return fd


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        message = f"{DEVICE}: load the kernel's module tun, or allow this user to open it"
        raise HostError("open", error.errno or 0, message) from None


def _advice(name: str, pairs: int, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return f"net tap={name}: another program has it"
    if error.errno == errno.EPERM:
        return (
            f"net tap={name}: it is not this user's; as root: ip tuntap add {name} mode tap"
            f" user {os.getuid()}{' multi_queue' if pairs > 1 else ''}"
        )
    if error.errno == errno.EINVAL:
        return f"net tap={name}: it must be a tap, with multi_queue for several queue pairs"
    return f"net tap={name}"
