"""``python -m tests.hosts.kernels [ROW...]``: the table of kernels, tests/hosts/KERNELS.md.

Rows are as :class:`tests.hosts.rows.Row` reads them; without any, all of the table are made anew.
They are tried in the hardware host that QEMU emulates, and those of our own kernel with
``--here`` on this host. A row that is made replaces the one in the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Final

from tests.hosts.errand import OUTPUT, Errand
from tests.hosts.own_kernel import OURS, own_kernel
from tests.hosts.rows import RESULTS, STEPS, TRANSPORTS, Result, Row
from tests.hosts.rows import main as measure_here
from tests.hosts.run import STATUS_HOST, run
from virtio.errors import ConfigurationError, Error
from vmm.image.kernel import default_kernel
from vmm.image.progress import ProgressLine

TABLE: Final = Path(__file__).with_name("KERNELS.md")
KERNELS: Final = (OURS, "ours:6.12", "debian", "debian:6.12", "debian:6.1-generic")
CPUS: Final = (1, 4)
ROW_SECONDS: Final = 600

_HEAD: Final = """\
# Kernels, and what they do under our monitor

`make kernels` writes this table. `hardware` is the host with hardware KVM that QEMU emulates,
`emulated` one whose KVM runs no guest kernel natively. A step that was right has a `+`. *Exits* are
those from the kernel's entry to the prompt of `/init`, on all processors.

* *shell*: the default guest's shell prompts on the serial console;
* *disk*: 1 MiB is read, half of it is written, and hashes of guest and host are equal;
* *rng*: `/dev/hwrng` gives 16 bytes; *agent*: it answers; *processors*: `nproc` tells all of them;
* *snapshot*, *restore*: the machine is saved, and another one goes on and reads the disk again.

`ours` is the project's kernel of Debian's 6.1 source. It has no ACPI, so by `mmio-acpi`, and with
`ours:6.12` always, it is built for the table: the configuration for several processors and PCI, and
what kernel-acpi.config adds. Such a kernel is not told to be quiet, and nearly all of its exits are
characters of its log.
What has no row was not tried.
"""
_COLUMNS: Final = ("host", "kernel", "transport", "vCPUs", "release", *STEPS, "exits", "otherwise")


def written(results: Iterable[Result]) -> str:
    """Return the content of the table's file."""
    lines = [_line(_COLUMNS), _line("---" for _ in _COLUMNS)]
    lines += [_line(_cells(one)) for one in sorted(results, key=_place)]
    return "\n".join((_HEAD, *lines, ""))


def read(text: str) -> list[Result]:
    """Return the results that the content of the table's file tells."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [_result(line) for line in lines[2:]]


def merged(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """Return the results, of which later ones of the same row and host replace earlier ones."""
    return list({(one.host, one.row): one for one in (*old, *new)}.values())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(result: Result) -> list[str]:
    row = Row.parse(result.row)
    steps = ["+" if step in result.done else "-" for step in STEPS]
    exits = str(result.exits) if result.exits else "-"
    fault = result.fault.replace("|", "/")
    named = [result.host, row.kernel, row.transport, str(row.cpus), result.release or "-"]
    return [*named, *steps, exits, fault]


def _result(line: str) -> Result:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if len(cells) != len(_COLUMNS):
        raise ConfigurationError(f"{TABLE}: this line has not {len(_COLUMNS)} columns: {line}")
    host, kernel, transport, cpus, release, *marks, exits, fault = cells
    return Result(
        row=str(Row.parse(f"{kernel}/{transport}/{cpus}")),
        host=host,
        release="" if release == "-" else release,
        done=tuple(step for step, mark in zip(STEPS, marks, strict=True) if mark == "+"),
        exits=0 if exits == "-" else int(exits),
        fault=fault,
    )


def _place(result: Result) -> tuple[bool, int, int, int]:
    row = Row.parse(result.row)
    known = KERNELS.index(row.kernel) if row.kernel in KERNELS else len(KERNELS)
    return result.host != "hardware", known, TRANSPORTS.index(row.transport), row.cpus


def all_rows(kernels: Sequence[str]) -> list[Row]:
    """Return every row of these kernels."""
    return [Row(*one) for one in product(kernels, TRANSPORTS, CPUS)]


def _in_hardware_host(rows: Sequence[Row], progress: ProgressLine) -> list[Result]:
    fetched: set[str] = set()
    results: list[Result] = []
    for row in rows:
        try:
            fetched.add(_fetch(row, progress))
        except Error as error:
            results.append(Result(str(row), "hardware", fault=str(error).splitlines()[0]))
    wanted = [str(row) for row in rows if str(row) not in {one.row for one in results}]
    command = [sys.executable, "-m", "tests.hosts.rows", OUTPUT, *wanted]
    errand = Errand(command, ROW_SECONDS * len(wanted), images=tuple(fetched))
    with tempfile.TemporaryDirectory() as name:
        status = run(errand, progress, cpus=2, output=Path(name))
        file = Path(name, RESULTS)
        results += _loaded(file) if file.exists() else []
    if status:
        print(f"kernels: the hardware host ended with status {status}", file=sys.stderr)
    return results


def _fetch(row: Row, progress: ProgressLine) -> str:
    """Make sure that the cache has a row's kernel, and return the name of its entry."""
    if row.kernel.startswith(OURS):
        image = own_kernel(row.kernel, row.transport, progress)
        pci = row.transport == "pci"
        return (image or default_kernel(progress, cpus=row.cpus, pci=pci).vmlinux).parent.name
    from vmm.image.debian_kernel import debian_kernel

    return debian_kernel(row.kernel, progress).name


def _loaded(file: Path) -> list[Result]:
    return [Result(**one | {"done": tuple(one["done"])}) for one in json.loads(file.read_text())]


def main(arguments: Sequence[str]) -> int:
    """Make rows, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.kernels", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="KERNEL/TRANSPORT/CPUS")
    parser.add_argument("--here", action="store_true", help="on this host, not in another one")
    options = parser.parse_args(arguments)
    line = ProgressLine(sys.stderr)
    try:
        rows = [Row.parse(text) for text in options.rows]
        if options.here:
            rows = rows or all_rows([OURS])
            with tempfile.TemporaryDirectory() as name:
                measure_here([name, *map(str, rows)])
                results = _loaded(Path(name, RESULTS))
        else:
            results = _in_hardware_host(rows or all_rows(KERNELS), line)
        old = read(TABLE.read_text()) if TABLE.exists() else []
        TABLE.write_text(written(merged(old, results)))
    except Error as error:
        print(f"kernels: {error}", file=sys.stderr)
        return STATUS_HOST
    finally:
        line.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
