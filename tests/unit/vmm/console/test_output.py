"""The sink that carries console output to the host."""

import fcntl
import os
import threading

import pytest

from vmm.console.output import OutputSink

DEADLINE_SECONDS = 20


def read_exactly(fd: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return bytes(data)


def fill(fd: int) -> int:
    """Fill a pipe to the brim; returns how many bytes it holds then."""
    size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    assert os.write(fd, bytes(size)) == size
    return size


def test_output_reaches_the_descriptor_in_order(pipe: tuple[int, int]) -> None:
    with OutputSink(pipe[1]) as sink:
        for value in b"hello, world\n":
            sink.write(bytes((value,)))

        assert read_exactly(pipe[0], 13) == b"hello, world\n"


def test_output_larger_than_the_pipe_arrives_whole(pipe: tuple[int, int]) -> None:
    text = bytes(range(256)) * 2000
    with OutputSink(pipe[1]) as sink:
        sink.write(text)

        assert read_exactly(pipe[0], len(text)) == text


def test_flush_returns_when_everything_was_written(pipe: tuple[int, int]) -> None:
    with OutputSink(pipe[1]) as sink:
        sink.write(b"the last line\n")

        assert sink.flush(DEADLINE_SECONDS)

        os.set_blocking(pipe[0], False)
        assert os.read(pipe[0], 100) == b"the last line\n"


def test_close_writes_what_is_left(pipe: tuple[int, int]) -> None:
    sink = OutputSink(pipe[1])
    sink.write(b"reboot: Power down\n")

    sink.close()
    sink.write(b"too late")

    assert os.read(pipe[0], 100) == b"reboot: Power down\n"


def test_close_ends_the_thread(pipe: tuple[int, int]) -> None:
    before = threading.active_count()
    sink = OutputSink(pipe[1])

    sink.close()

    assert threading.active_count() == before


def test_writer_is_not_held_up_by_a_reader_that_does_not_read(pipe: tuple[int, int]) -> None:
    filled = fill(pipe[1])
    with OutputSink(pipe[1]) as sink:
        sink.write(b"x" * 1000)

        assert not sink.flush(0.01)

        read_exactly(pipe[0], filled)
        assert sink.flush(DEADLINE_SECONDS)


def test_full_buffer_keeps_the_newest_output_and_counts_the_rest(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    filled = fill(pipe[1])
    sink = OutputSink(pipe[1], "stdout", capacity=100)
    for number in range(1000):
        sink.write(b"%09d\n" % number)

    dropped = sink.dropped
    read_exactly(pipe[0], filled)
    sink.close()
    sink.close()
    arrived = read_exactly(pipe[0], 10_000 - dropped)

    assert arrived.endswith(b"".join(b"%09d\n" % number for number in range(990, 1000)))
    assert caplog.text.count(f"stdout: {dropped} bytes of output dropped") == 1


def test_close_gives_up_on_a_reader_that_never_reads(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    filled = fill(pipe[1])
    sink = OutputSink(pipe[1])
    sink.write(b"x" * 100_000)

    sink.close(timeout=0.05)
    read_exactly(pipe[0], filled)
    sink.close()

    assert 0 < sink.dropped <= 100_000
    assert "bytes of output dropped" in caplog.text


def test_closed_pipe_is_reported_once_and_swallows_the_rest() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    errors: list[OSError] = []
    with OutputSink(writing, on_gone=errors.append) as sink:
        sink.write(b"a")
        flushed = sink.flush(DEADLINE_SECONDS)
        sink.write(b"b")
    os.close(writing)

    assert flushed
    assert [type(error) for error in errors] == [BrokenPipeError]
    assert sink.dropped == 0


def test_vanished_terminal_is_reported() -> None:
    controller, terminal = os.openpty()
    os.close(controller)
    errors: list[OSError] = []
    with OutputSink(terminal, on_gone=errors.append) as sink:
        sink.write(b"a")
    os.close(terminal)

    assert [error.errno for error in errors] == [5]


def test_descriptor_stays_in_the_mode_it_was_in(pipe: tuple[int, int]) -> None:
    before = fcntl.fcntl(pipe[1], fcntl.F_GETFL)

    with OutputSink(pipe[1]) as sink:
        sink.write(b"x")
        sink.flush(DEADLINE_SECONDS)

    assert fcntl.fcntl(pipe[1], fcntl.F_GETFL) == before


def test_descriptor_that_somebody_made_non_blocking_works_too(pipe: tuple[int, int]) -> None:
    filled = fill(pipe[1])
    os.set_blocking(pipe[1], False)
    with OutputSink(pipe[1]) as sink:
        sink.write(b"hello")
        refused = not sink.flush(0.05)

        assert read_exactly(pipe[0], filled + 5)[filled:] == b"hello"

    assert refused
