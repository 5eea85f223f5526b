"""The command line ``vmm``: one module per subcommand, imported only when that one runs."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from virtio.log import DEBUG, INFO, WARNING, show
from vmm.cli.status import status_of
from vmm.x86 import check_host


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error becomes one line on stderr."""
    _open_standard_streams()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    return status_of(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    with _imports():
        options = _quick_options(argv) or _parsed_options(argv)
    show((WARNING, INFO, DEBUG)[min(options.verbose, 2)])
    if options.command != "doctor":  # whose finding it is
        check_host()
    status: int = options.execute(options)
    return status


def _open_standard_streams() -> None:
    """Open the streams that the parent closed on nothing, lest a disk take their descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # its descriptor is free, and the lowest free one is taken
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good


@contextmanager
def _imports() -> Iterator[None]:
    """Keep the objects of imports in the block out of the search for garbage, for good."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _quick_options(argv: list[str]) -> Any:
    """Return the options of the command that people wait for, when it is given plain words."""
    if argv[:1] != ["run"]:
        return None
    from vmm.cli import run
    from vmm.cli.quick_options import QuickOptions

    options = QuickOptions()
    options.add_argument("-v", "--verbose", action="count", default=0)
    run.add_arguments(options)
    found = options.parse(argv[1:])
    if found is not None:
        found.command, found.execute = "run", run.execute
    return found


def _parsed_options(argv: list[str]) -> Any:
    from vmm.cli.parser import parser_for

    return parser_for(argv).parse_args(argv)
