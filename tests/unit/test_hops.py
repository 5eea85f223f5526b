"""The way of one read of 4 KiB through our code is as short as it was when it was counted."""

import pytest

from tests.perf.hops import Call, Hops, read_4k
from virtio import engine

MOST = {
    "native": Hops(calls=20, files=8, moves=12),
    "rings": Hops(calls=26, files=9, moves=16),
    "python": Hops(calls=55, files=10, moves=30),
}


def test_hops_are_calls_files_and_moves_between_files() -> None:
    names = "aabba"

    hops = Hops.of([Call(name, "function", 0) for name in names])

    assert hops == Hops(calls=5, files=2, moves=2)


@pytest.mark.parametrize("name", MOST)
def test_a_read_takes_no_more_hops_than_are_promised(name: str) -> None:
    if name != "python" and engine.native() is None:
        pytest.skip("the native engine was not built, or is not wanted")

    calls = read_4k(name)

    hops, most = Hops.of(calls), MOST[name]
    listing = "\n".join(f"{'  ' * call.depth}{call.name}  {call.file}" for call in calls)
    assert calls[0].name == "QueueRunner.serve"
    assert hops.calls <= most.calls, listing
    assert hops.files <= most.files, listing
    assert hops.moves <= most.moves, listing
