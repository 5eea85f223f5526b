"""``vmm dump``: a saved guest as a core file, which gdb, drgn and crash open."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("snapshot", type=Path, metavar="SNAPSHOT", help="as vmm snapshot made it")
    parser.add_argument("file", type=Path, metavar="FILE", help="the new core file")


def execute(options: argparse.Namespace) -> int:
    """Write the file and return the exit status."""
    from vmm.dump.dump import dump_snapshot, size_of

    dump_snapshot(options.snapshot, options.file)
    print(f"vmm: {options.file}: {size_of(options.file)} on disk", file=sys.stderr)
    return 0
