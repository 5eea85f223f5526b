"""The buffer of a command's output."""

import tracemalloc

from vmm.agent.output import OutputBuffer


def test_output_keeps_its_order_and_pieces_of_one_stream_are_joined() -> None:
    buffer = OutputBuffer()
    for stream, data in (("stdout", b"a"), ("stdout", b"b"), ("stderr", b"c"), ("stdout", b"d")):
        buffer.add(stream, data)

    assert len(buffer) == 4
    assert [buffer.take() for _ in range(4)] == [
        ("stdout", b"ab"),
        ("stderr", b"c"),
        ("stdout", b"d"),
        None,
    ]
    assert len(buffer) == 0


def test_single_bytes_of_alternating_streams_cost_little_memory() -> None:
    buffer = OutputBuffer()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(32768):
        buffer.add("stdout", b"o")
        buffer.add("stderr", b"e")
    cost = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert len(buffer) == 65536
    assert cost < 12 * 65536


def test_cleared_buffer_is_empty() -> None:
    buffer = OutputBuffer()
    buffer.add("stderr", b"x")
    buffer.clear()

    assert buffer.take() is None
