"""``python -m tests.sanitize [PYTEST ARGUMENTS]``: the tests, with all C under sanitizers.

Builds the project once more, into ``build/sanitize``, with the address and the undefined-behaviour
sanitizer of the compiler and warnings as errors; makes sure that each of them finds a fault made on
purpose; and runs the tests of rings, devices, items of the specification, fuzz corpora and the run
loop's C there, on all processors. The first finding ends the run.

Guest memory of these tests is a ``bytearray``, and Python gets all its memory from ``malloc()``, so
that a byte before or behind any of it is a finding.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
BUILD: Final = PROJECT / "build" / "sanitize"
MODULES: Final = ("virtio.native._native", "vmm.sandbox._sandbox", "vmm.x86._run")
SANITIZERS: Final = "-fsanitize=address,undefined -fno-sanitize-recover=all"
CFLAGS: Final = f"{SANITIZERS} -fno-omit-frame-pointer -g -Werror"
TESTS: Final = (
    "tests/unit/virtio",
    "tests/spec",
    "tests/fuzz/test_corpus.py",
    "tests/unit/vmm/x86",
    "tests/unit/vmm/ending/test_halt_watch.py",
)

OPTIONS: Final = ("-q", "-n", "auto", "-x")
CAPTURE: Final = "--capture=sys"  # for capturing descriptors would swallow the reports, too

FAULTS: Final = {
    "heap-buffer-overflow": "lib.get_rooms(plain, 2, rooms)",
    "misaligned address": "lib.get_rooms(ffi.cast('struct plain *', at + 1), 1, rooms)",
}
"""Calls of C that break the rules, and the names that the sanitizers have for that."""

BEFORE_A_FAULT: Final = """
from virtio.native._native import ffi, lib
plain, rooms = ffi.new("struct plain[1]"), ffi.new("uint32_t[]", 2)
at = ffi.cast("uint8_t *", plain)
"""


class Failed(Exception):
    """The sanitizers cannot be used; the message says why."""


def main(arguments: list[str]) -> int:
    """Build, make sure that the sanitizers work, and return the status of the tests."""
    try:
        build()
        environment = sanitized()
        check_modules(environment)
        for fault, call in FAULTS.items():
            check_fault(environment, fault, call)
    except Failed as error:
        print(f"sanitize: {error}", file=sys.stderr)
        return 2
    # -P and no pythonpath of pytest's: the tree's own modules have to come after those built here.
    command = [sys.executable, "-P", "-m", "pytest", "-o", "pythonpath=", CAPTURE]
    wanted = arguments or [*OPTIONS, *TESTS]
    return subprocess.run([*command, *wanted], cwd=PROJECT, env=environment).returncode


def build() -> None:
    """Build all packages with their C parts into a folder of their own."""
    shutil.rmtree(BUILD, ignore_errors=True)
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(BUILD / "made")]
    done = subprocess.run(
        [*command, "--build-lib", str(BUILD)],
        cwd=PROJECT,
        env=os.environ | {"CFLAGS": CFLAGS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # A C part that does not compile is optional in a build, so that there is no status to look at.
    missing = [name for name in MODULES if not list(BUILD.glob(f"{name.replace('.', '/')}.*.so"))]
    if done.returncode or missing:
        raise Failed(f"{', '.join(missing) or 'it'} was not built\n{done.stdout}")


def sanitized() -> dict[str, str]:
    """Return the environment in which Python loads the sanitizers first, and then these modules."""
    found = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    return os.environ | {
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "halt_on_error=1:detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join((str(BUILD), str(PROJECT))),
    }


def check_modules(environment: dict[str, str]) -> None:
    """Raise :class:`Failed` unless Python imports what was built here."""
    program = f"import {', '.join(MODULES)}; print({', '.join(f'{m}.__file__' for m in MODULES)})"
    done = _python(program, environment)
    elsewhere = [path for path in done.stdout.split() if not path.startswith(str(BUILD))]
    if done.returncode or elsewhere or not done.stdout:
        raise Failed(f"Python imports {elsewhere} instead\n{done.stderr}")


def check_fault(environment: dict[str, str], fault: str, call: str) -> None:
    """Raise :class:`Failed` unless the sanitizers end a program that makes this fault."""
    done = _python(BEFORE_A_FAULT + call, environment)
    if not done.returncode or fault not in done.stderr:
        raise Failed(f"a fault made on purpose, {fault}, was not found\n{done.stderr}")


def _python(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
