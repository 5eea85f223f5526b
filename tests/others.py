"""Runs Python without the rights of root, whoever runs the tests: permissions then mean something.

The user stays the same, as another one may not be allowed to run this interpreter.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEADLINE_SECONDS = 120
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def run_powerless(
    arguments: list[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with ``arguments``."""
    return subprocess.run(
        [*(POWERLESS if os.geteuid() == 0 else ()), sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )


def powerless_script(script: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a script and return the last line of all that it prints."""
    done = run_powerless(["-c", textwrap.dedent(script)], environment)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1].removeprefix("virtio.errors.") if lines else ""
