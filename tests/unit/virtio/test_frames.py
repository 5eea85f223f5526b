"""Frames let go of what they hold."""

import sys
import weakref

from virtio.frames import clear_frames


class Held:
    pass


def fail(held: list[Held]) -> None:
    local = held.pop()
    raise ValueError(f"with {local}")


def test_variables_of_frames_that_ended_are_let_go() -> None:
    held = [Held()]
    gone = weakref.ref(held[0])
    try:
        fail(held)
    except ValueError as error:
        kept = error

    assert gone() is not None
    clear_frames(kept.__traceback__)
    assert gone() is None


def test_frame_that_runs_keeps_its_variables() -> None:
    here = "kept"
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        clear_frames(sys.exc_info()[2])

    assert here == "kept"
