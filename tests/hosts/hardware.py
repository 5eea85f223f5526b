"""``make test-hardware``: the tests that touch KVM or boot guests, on hardware KVM.

They run in the host that QEMU emulates, or right here where ``/dev/kvm`` is hardware KVM already.
Their JUnit XML and coverage come to ``build/hardware``. A line for each test tells where it ended
otherwise than on this host, by the JUnit XML that ``make test`` leaves.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.hosts.errand import OUTPUT, PROJECT, Errand
from tests.hosts.images import own_kernels, stock_kernels
from tests.hosts.junit import SKIPPED, differences, outcomes
from tests.hosts.kernel import host_kernel
from tests.hosts.qemu import ensure_qemu
from tests.hosts.run import STATUS_HOST, HostEnded, run
from tests.hosts.suite import COVERAGE, REPORT, run_here
from tests.test_coverage import PACKAGES, count_lines
from virtio.errors import ConfigurationError, Error
from vmm.image.kernel import cached_kernel
from vmm.image.progress import Progress, ProgressLine
from vmm.x86 import host_kind, is_emulated_host, kvm_fault

RESULTS: Final = PROJECT / "build" / "hardware"
OUTSIDE: Final = PROJECT / "build" / "junit.xml"
_SECONDS: Final = 5400
_SHORT_SECONDS: Final = 900  # on processors that others use as well
_LEAST_SECONDS: Final = 180  # for the host to boot in, and for some tests to end


def runs_here() -> bool:
    """Whether this host has hardware KVM itself, as ``vmm doctor`` finds it."""
    return kvm_fault() is None and not is_emulated_host()


def run_there(*, short: bool, until: float | None) -> int:
    """Run the tests in the hardware host, and return their status.

    Where that host itself dies they run once more in another one, and that is said. Its kernel was
    once seen to overrun its stack by exceptions in the entry of an exception, which a kernel does
    when the processor below it does not restore all that it should.
    """
    line = ProgressLine(sys.stderr)
    try:
        try:
            return _once(short, until, line)
        except HostEnded as error:
            print(f"test-hardware: {error}. Another one is started", file=sys.stderr)
            return _once(short, until, line)
    except Error as error:
        print(f"test-hardware: {error}", file=sys.stderr)
        return STATUS_HOST
    finally:
        line.close()


def _once(short: bool, until: float | None, progress: Progress) -> int:
    seconds = _SHORT_SECONDS if short else _SECONDS
    if until is not None:
        seconds = min(seconds, int(until - time.time()))
        lack = "no time was left for it" if seconds < _LEAST_SECONDS else _lack(progress)
        if lack:
            print(f"test-hardware: skipped: {lack}", file=sys.stderr)
            return 0
    command = [sys.executable, "-m", "tests.hosts.suite", OUTPUT]
    if short:
        command.append("--short")
    if until is not None:
        command.append(f"--until={until:.0f}")
    own_kernels(progress, every=not short)
    images = () if short else stock_kernels(progress)
    return run(Errand(command, seconds, images=images), progress, output=RESULTS)


def _lack(progress: Progress) -> str:
    """Return what the host cannot be had for, nothing when it can be."""
    if cached_kernel() is None:
        return "the guest kernel is not built: make image"
    try:
        ensure_qemu(progress)
        host_kernel(progress)
    except ConfigurationError as error:
        return str(error)
    return ""


def tell(show: Callable[[str], None]) -> None:
    """Tell what came back: how many tests, where they ended otherwise, and what they covered."""
    if not (RESULTS / REPORT).exists():
        return
    inside = outcomes(RESULTS / REPORT)
    skipped = sum(outcome == SKIPPED for outcome, _ in inside.values())
    show(f"{len(inside)} tests on hardware KVM, of them {skipped} skipped: {RESULTS / REPORT}")
    if not OUTSIDE.exists():
        show(f"not compared with this host: make test leaves {OUTSIDE}")
    else:
        found = list(differences(outcomes(OUTSIDE), inside))
        for one in found:
            show(one)
        show(f"{len(found)} of them ended otherwise than on this host")
    if (RESULTS / COVERAGE).exists():
        show(f"{_covered()} % of the lines ran there: {RESULTS / COVERAGE}")


def _covered() -> int:
    from coverage import Coverage

    measured = Coverage(data_file=str(RESULTS / COVERAGE), config_file=str(RESULTS / "settings"))
    measured.load()
    lines = [count_lines(measured, PROJECT / package) for package in PACKAGES]
    return 100 * sum(run for run, _ in lines) // sum(total for _, total in lines)


def main(arguments: Sequence[str]) -> int:
    """Run the tests where hardware KVM is, and tell the differences."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.hardware", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a part of at most five minutes")
    parser.add_argument("--until", type=float, metavar="TIME", help="as pytest's in these tests")
    options = parser.parse_args(arguments)
    shutil.rmtree(RESULTS, ignore_errors=True)
    if runs_here():
        print(f"test-hardware: this host has {host_kind()}: the tests run right here", flush=True)
        status = run_here(RESULTS, short=options.short, until=options.until)
    else:
        status = run_there(short=options.short, until=options.until)
    try:
        tell(print)
    except ConfigurationError as error:
        print(f"test-hardware: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
