"""Chapter 7: the device's side of a split virtqueue."""

from typing import Any, Final

from virtio.testing import POISON, SplitDriver, flat_memory
from vmm.course.missing import Missing, Step, function, need

SIZE: Final = 8
MEMORY: Final = 1 << 20


def check(mine: Any, step: Step) -> None:
    """Play the driver, of chains that are ever less ordinary."""
    serve = function(mine, "serve", "serve(memory, size, table, available, used, last)")
    bench = _Bench(serve)
    bench.expect([b"hello"], [16], b"HELLO", "a chain of two buffers")
    step("one chain was served")
    bench.expect([b"he", b"l", b"lo"], [16], b"HELLO", "a chain with three readable buffers")
    bench.expect([b"hello"], [2, 3], b"HELLO", "a chain with two writable buffers")
    bench.expect([b"hello"], [3], b"HEL", "a chain whose answer has 3 bytes of room")
    bench.expect([b"hello"], [], b"", "a chain with nothing to write")
    step("chains of several buffers were served")
    for _ in range(3 * SIZE):
        bench.expect([b"around"], [9], b"AROUND", f"a queue of {SIZE} that is around its end")
    step("the rings begin anew at their end")
    _several(serve)
    step("several chains were served in one call")
    late = _Bench(serve, start=65533)
    for _ in range(6):
        late.expect([b"late"], [9], b"LATE", "a queue whose index goes from 65535 to 0")
    need(0 <= late.last < 65536, f"serve returned {late.last}, must be 0 to 65535")
    step("the indexes go on with 0 behind 65535")


class _Bench:
    """A driver, and how far the reader's device has come."""

    def __init__(self, serve: Any, start: int = 0) -> None:
        self.memory = flat_memory((0, MEMORY))
        self.driver = SplitDriver(self.memory, SIZE, start=start)
        self.last = start
        self._serve = serve

    def serve(self) -> None:
        view = self.memory.view(0, MEMORY)
        self.last = self._serve(view, *self.driver.layout, self.last)
        need(isinstance(self.last, int), f"serve returned {self.last!r}, must be the next last")

    def expect(self, readable: list[bytes], writable: list[int], wanted: bytes, what: str) -> None:
        self.driver.add(readable, writable)
        self.serve()
        need(self.driver.used_idx == self.last, _index_hint(self, what))
        try:
            found = self.driver.collect()
        except AssertionError as error:
            raise Missing(f"{what}: {error}: the used ring names the head of a chain") from None
        need(len(found) == 1, f"{what}: {len(found)} chains are used, must be one")
        data = found[0].data[: len(wanted)]
        need(data == wanted, f"{what}: the answer is {data!r}, must be {wanted!r}")
        length = found[0].length
        need(
            length == len(wanted),
            f"{what}: the used length is {length}, must be {len(wanted)}, what was written",
        )
        rest = found[0].data[len(wanted) :]
        need(not rest.strip(bytes([POISON])), f"{what}: more than the answer was written")


def _index_hint(bench: _Bench, what: str) -> str:
    used, last = bench.driver.used_idx, bench.last
    return f"{what}: the used index is {used} and last is {last}; both count the chains served"


def _several(serve: Any) -> None:
    bench = _Bench(serve)
    tokens = [bench.driver.add([text], [8]) for text in (b"a", b"b", b"c")]
    bench.serve()
    found = bench.driver.collect()
    need(len(found) == 3, f"three chains are available, {len(found)} were served in one call")
    need([used.token for used in found] == tokens, "three chains were not served in their order")
    need([used.data[:1] for used in found] == [b"A", b"B", b"C"], "answers went to other chains")
