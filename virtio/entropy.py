"""The entropy device: random bytes for the guest. VIRTIO 1.4 "Entropy Device"."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from virtio import engine
from virtio.device.declaration import DEFAULT_RING_FEATURES, Device, queue
from virtio.device.lifecycle import TimerHandle
from virtio.rate import TokenBucket

if TYPE_CHECKING:
    from virtio.native.data_path import DataPath
    from virtio.virtqueue.batch import ChainBatch
    from virtio.virtqueue.chain import DescriptorChain

REQUEST_LIMIT: Final = 65536
RETRY_SECONDS: Final = 0.05


class Entropy(Device):
    """Fills each buffer with at most ``REQUEST_LIMIT`` (64 KiB) fresh bytes, whatever its length.

    ``source(n)`` returns up to ``n`` random bytes, none when it is dry; by default the kernel's
    generator, which never is. ``bytes_per_second`` limits the rate, with a burst of one second.
    A buffer that cannot be served yet is held, in order, until there is a byte for it (``RNG-02``).
    """

    device_id = 4
    in_order = True

    def __init__(
        self,
        *,
        source: Callable[[int], bytes] | None = None,
        bytes_per_second: int | None = None,
        ring_features: int = DEFAULT_RING_FEATURES,
    ) -> None:
        super().__init__(ring_features=ring_features)
        self._source = source
        self._rate: TokenBucket | None = None
        if bytes_per_second is not None:
            self._rate = TokenBucket(bytes_per_second, bytes_per_second)
        self._held: deque[DescriptorChain] = deque()
        self._timer: TimerHandle | None = None

    @property
    def rate(self) -> TokenBucket | None:
        """The limit of bytes per second, if there is one; another may be set at any time."""
        return self._rate

    @rate.setter
    def rate(self, rate: TokenBucket | None) -> None:
        self._rate = rate
        self._choose()

    @queue(size=256, batch=True, native="_data_path")
    def requestq(self, chains: "ChainBatch") -> Sequence[int | None]:
        """Fill buffers, or hold them behind those that wait already."""
        if self._held or self.rate or self._source is not None:
            return [self._serve(chain) for chain in chains]
        wanted = [min(length, REQUEST_LIMIT) for length in chains.writable_lengths]
        return chains.write_each(map(self._kernel, wanted))

    def _serve(self, chain: "DescriptorChain") -> int | None:
        length = None if self._held else self._fill(chain)
        if length is None:
            self._hold(chain)
        return length

    def _data_path(self) -> "DataPath | None":
        """Return the native way to fill buffers, where nothing but the kernel gives the bytes."""
        native = engine.data_paths()
        if native is None or self._held or self.rate or self._source is not None:
            return None
        source = self._kernel
        return native.entropy_path(source) if isinstance(source, native.RandomBytes) else None

    @cached_property
    def _kernel(self) -> Callable[[int], bytes]:
        return engine.random_bytes()

    def _fill(self, chain: "DescriptorChain") -> int | None:
        """Return how many bytes were written: none for a buffer without room, ``None`` when dry."""
        wanted = min(chain.writable_length, REQUEST_LIMIT)
        if not wanted:
            return 0
        granted = self.rate.take(wanted) if self.rate else wanted
        source = self._source or self._kernel
        data = source(granted)[:granted] if granted else b""
        if self.rate:
            self.rate.give_back(granted - len(data))
        return chain.write(data) if data else None

    def _hold(self, chain: "DescriptorChain") -> None:
        self._held.append(chain)
        if self._timer is None:
            self._timer = self.loop.call_later(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._timer = None
        while self._held:
            length = self._fill(self._held[0])
            if length is None:
                self._timer = self.loop.call_later(RETRY_SECONDS, self._retry)
                return
            self._held.popleft().complete(length)

    def _forget(self) -> None:
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def disable_queue(self, index: int) -> None:
        """Let go of the buffers that wait."""
        self._forget()
        super().disable_queue(index)

    def reset(self) -> None:
        """Let go of the buffers that wait, and return to power-on."""
        self._forget()
        super().reset()
