"""A reader may take its time, as long as the run is not over."""

import os
from collections.abc import Iterator

import pytest

from vmm.host import patient_writer
from vmm.host.patient_writer import PatientWriter

MORE_THAN_A_PIPE = bytes(1 << 18)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:  # a test has closed it
            continue


def test_what_is_written_comes_in_its_order(pipe: tuple[int, int]) -> None:
    with PatientWriter(pipe[1], bool) as writer:
        writer.write(b"one ")
        writer.write(b"")
        writer.write(b"two")

    assert os.read(pipe[0], 100) == b"one two"
    os.close(pipe[1])
    assert os.read(pipe[0], 1) == b""  # the copy is closed, too


def test_a_reader_that_does_not_come_is_given_up_when_the_run_is_over(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_writer, "LAST_SECONDS", 0.01)
    with PatientWriter(pipe[1], lambda: True) as writer:
        with pytest.raises(TimeoutError):
            writer.write(MORE_THAN_A_PIPE)
        with pytest.raises(TimeoutError):
            writer.write(b"later")
    os.close(pipe[0])  # which lets the thread end


def test_a_reader_that_went_away_is_told_each_time(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    with PatientWriter(pipe[1], bool) as writer:
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                writer.write(b"x")
