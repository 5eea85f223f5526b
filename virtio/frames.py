"""Lets go of what the frames of a traceback hold, as ``traceback.clear_frames``.

That module takes milliseconds to import, and cannot be imported in a sandbox.
"""

from contextlib import suppress
from types import TracebackType


def clear_frames(traceback: TracebackType | None) -> None:
    """Clear the local variables of all frames of ``traceback`` that have ended."""
    while traceback is not None:
        with suppress(RuntimeError):  # the frame still runs
            traceback.tb_frame.clear()
        traceback = traceback.tb_next
