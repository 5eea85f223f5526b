"""A command's output on its way to a stream: complete, at its reader's pace, with a clear end."""

import errno
import os
import select
import threading

import pytest

from vmm.cli.stream_writer import StreamWriter

DEADLINE_SECONDS = 20


def read_all(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return data


@pytest.mark.parametrize("blocking", [True, False])
def test_more_than_the_pipe_holds_arrives_whole(pipe: tuple[int, int], blocking: bool) -> None:
    os.set_blocking(pipe[1], blocking)
    written: list[int] = []
    writer = StreamWriter(pipe[1], "stdout")
    writer.on_written = written.append
    pieces = [bytes([at]) * 100_000 for at in range(10)]

    for piece in pieces:
        writer.put(piece)
    assert select.select([pipe[0]], [], [], DEADLINE_SECONDS)[0]
    early = list(written)
    data = read_all(pipe[0], 1_000_000)

    assert writer.drain(DEADLINE_SECONDS)
    assert data == b"".join(pieces)
    assert early == []
    assert written == [100_000] * 10


def test_last_piece_is_not_drained_before_its_reader_takes_it(pipe: tuple[int, int]) -> None:
    writer = StreamWriter(pipe[1], "stdout")

    writer.put(bytes(100_000))
    assert select.select([pipe[0]], [], [], DEADLINE_SECONDS)[0]
    early = writer.drain(0)
    read_all(pipe[0], 100_000)

    assert not early
    assert writer.drain(DEADLINE_SECONDS)


def test_reader_that_went_away_is_told_once_and_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    told = threading.Semaphore(0)
    writer = StreamWriter(writing, "stdout")
    writer.on_gone = told.release

    writer.put(b"one")
    writer.put(b"two")

    assert writer.drain(DEADLINE_SECONDS)
    assert told.acquire(timeout=DEADLINE_SECONDS)
    assert not told.acquire(blocking=False)
    assert writer.error is None
    os.close(writing)


def test_stream_that_cannot_be_written_says_why() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        writer = StreamWriter(full.fileno(), "stdout")
        writer.put(b"one")

        assert writer.drain(DEADLINE_SECONDS)
        assert writer.error is not None
        assert writer.error.errno == errno.ENOSPC
