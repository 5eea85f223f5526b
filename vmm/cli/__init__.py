"""The command line ``vmm``: one module per subcommand, imported only when that one runs."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from virtio.errors import ConfigurationError, Error
from virtio.log import DEBUG, INFO, WARNING, show
from vmm.ending.ending import STATUS_CONFIGURATION, STATUS_HOST, STATUS_INTERRUPTED
from vmm.x86 import check_host


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error becomes one line on stderr."""
    _open_standard_streams()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with _imports():
        options = _quick_options(argv) or _parsed_options(argv)
    show((WARNING, INFO, DEBUG)[min(options.verbose, 2)])
    try:
        if options.command != "doctor":  # whose finding it is
            check_host()
        status: int = options.execute(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)
        status = STATUS_INTERRUPTED
    except Error as error:
        _complain(str(error))
        status = STATUS_CONFIGURATION if isinstance(error, ConfigurationError) else STATUS_HOST
    except KeyboardInterrupt:
        _complain("interrupted")
        status = STATUS_INTERRUPTED
    try:
        sys.stderr.flush()
    except OSError:  # the terminal went away: what is left was for it
        _forget(sys.stderr)
    return status


def _open_standard_streams() -> None:
    """Open the streams that the parent closed on nothing, lest a disk take their descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # its descriptor is free, and the lowest free one is taken
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good


def _complain(message: str) -> None:
    with suppress(OSError):
        print(f"vmm: {message}", file=sys.stderr)


def _forget(stream: TextIO) -> None:
    """Drop output that nobody reads, so that the interpreter's end does not fail over it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


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
