"""Makes the pictures of README again, of what really ran.

``python -m docs.pictures.draw request TRACE.json`` draws the last request of a disk in a trace, as
``vmm run --trace TRACE.json --disk IMAGE -- dd if=/dev/vda of=/dev/null bs=4k count=1`` writes it.
``python -m docs.pictures.draw first-run`` records a terminal with ``vmm run`` in it, of which
svg-term, a program of npm's, makes a moving picture; waits of more than a second are cut.
"""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from docs.course.drawings import CHARACTER, Drawing

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]

DRIVER, DEVICE = 190, 580
"""Where the lines of the two stand, from left to right."""
TOP, STEP = 70, 34

COLUMNS, LINES = 84, 22
DEADLINE: Final = 600.0
LONGEST_WAIT: Final = 1.0  # in the picture
SESSION: Final = (
    ("$ ", "vmm run\r"),
    ("guest:/# ", "uname -sr; ls /dev; hexdump -n 8 /dev/hwrng\r"),
    ("guest:/# ", "poweroff\r"),
    ("$ ", "exit\r"),
)
"""What is typed, and what the terminal shows before that."""
ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Control sequences, as the one by which a shell asks behind its prompt where the cursor is."""


def request(trace: Path) -> str:
    """Return the picture of the last request of a disk in a trace: SVG."""
    events = [one for one in json.loads(trace.read_text()) if one["ph"] == "X"]
    asked = [one for one in events if one["name"].startswith(("read ", "write "))][-1]
    begin, end, disk = asked["ts"], asked["ts"] + asked["dur"], asked["cat"]
    served = next(one for one in events if one["name"] == "device" and begin <= one["ts"] <= end)
    steps = [
        (begin, DRIVER, DEVICE, "kick"),
        (served["ts"], DEVICE, DEVICE, f"taken: {asked['args']['descriptors']}"),
        (
            served["ts"] + served["dur"],
            DEVICE,
            DEVICE,
            f"completed: {asked['args']['written']} bytes written",
        ),
        (end, DEVICE, DRIVER, "interrupt"),
    ]
    for one in events:
        if one["name"].startswith(f"{disk} Interrupt") and end <= one["ts"] and len(steps) < 6:
            steps.append((one["ts"], DRIVER, DEVICE, one["name"].removeprefix(f"{disk} ")))
    picture = Drawing(f"A request of {disk}, as the trace tells it", height=TOP + STEP * len(steps))
    picture.note(16, 30, "microseconds")
    picture.box(DRIVER - 75, 10, 150, 30, "driver, in the guest", "guest")
    picture.box(DEVICE - 75, 10, 150, 30, f"{disk}, its thread", "device")
    for lane in (DRIVER, DEVICE):
        picture.line(lane, 40, lane, picture.height)
    for number, (time_us, start, stop, text) in enumerate(steps):
        y = TOP + STEP * number
        picture.note(40, y + 4, f"{time_us - begin:.1f}")
        if start != stop:
            picture.arrow(start, y, stop, y, text)
        else:
            width = len(text) * CHARACTER
            picture.box(int(DEVICE - width), y - 12, int(width + 12), 24, text, "device")
    return picture.svg()


def recorded() -> list[tuple[float, str]]:
    """Return what a terminal showed during the session: seconds since its start, and text."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.execvpe("sh", ["sh"], os.environ | {"PATH": path, "PS1": "$ ", "TERM": "xterm"})
    subprocess.run(["stty", "cols", str(COLUMNS), "rows", str(LINES)], stdin=terminal, check=True)
    shown: list[tuple[float, str]] = []
    begun = time.monotonic()
    for prompt, answer in (*SESSION, ("", "")):
        text = ""
        while not prompt or not text.endswith(prompt):
            left = begun + DEADLINE - time.monotonic()
            if left <= 0 or not select.select([terminal], [], [], left)[0]:
                raise SystemExit(f"the terminal did not show {prompt!r} within {DEADLINE:g} s")
            try:
                more = os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # EIO: the shell has ended
                break
            text = ESCAPES.sub("", (text + more)[-200:])
            shown.append((time.monotonic() - begun, more))
        if answer:
            os.write(terminal, answer.encode())
    os.waitpid(process, 0)
    return shown


def first_run() -> str:
    """Return the picture of a terminal in which a guest is booted: SVG that moves."""
    lines = [json.dumps({"version": 2, "width": COLUMNS, "height": LINES})]
    before = now = 0.0
    for seconds, text in recorded():
        now += min(seconds - before, LONGEST_WAIT)
        before = seconds
        lines.append(json.dumps([round(now, 3), "o", text]))
    with tempfile.TemporaryDirectory() as folder:
        cast, picture = Path(folder, "run.cast"), Path(folder, "run.svg")
        cast.write_text("\n".join(lines) + "\n")
        npx = shutil.which("npx") or sys.exit("svg-term is run by npx: install npm")
        command = [npx, "--yes", "svg-term-cli", "--window"]
        command += ["--in", str(cast), "--out", str(picture)]
        subprocess.run(command, check=True)
        return picture.read_text()


def main(words: Sequence[str]) -> None:
    """Draw what is asked for."""
    match words:
        case ["request", trace]:
            (HERE / "request.svg").write_text(request(Path(trace)))
        case ["first-run"]:
            (HERE / "first-run.svg").write_text(first_run())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
