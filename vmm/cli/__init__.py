"""The command line ``vmm``: one module per subcommand, imported only when that one runs."""

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from virtio.errors import ConfigurationError, Error
from virtio.log import DEBUG, INFO, WARNING, show
from vmm.ending.ending import STATUS_CONFIGURATION, STATUS_HOST, STATUS_INTERRUPTED
from vmm.x86 import check_host

_SUBCOMMANDS: Final = {
    "run": "boot a guest and connect this terminal to its console",
    "snapshot": "boot a guest and save it, for others to go on from",
    "demo": "boot the default guest through a short demonstration",
    "image": "build, list or remove the cached guest images",
    "doctor": "tell whether this host can run guests, and what to do if not",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; an error becomes one line on stderr."""
    _open_standard_streams()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with _imports():
        options = _parser(argv).parse_args(argv)
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


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, formatter_class=_HelpFormatter)
    common.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more; twice for every detail"
    )
    parser = argparse.ArgumentParser(
        prog="vmm",
        formatter_class=_HelpFormatter,
        description="Boot Linux guests under KVM, with virtio devices written in Python.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _SUBCOMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text, parents=[common], formatter_class=_HelpFormatter
        )
        if name in argv:
            module = importlib.import_module(f"vmm.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(execute=module.execute)
    return parser


class _Version(argparse.Action):
    """Looks up the version only when somebody asks: the import takes long."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"vmm {version('pyvmm')}")
        parser.exit()


class _HelpFormatter(argparse.HelpFormatter):
    """Help as wide as the terminal.

    A parser makes a formatter for each argument that it is given, and the usual one imports shutil,
    with every compressor of the library, to learn the width.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    columns = 0
    with suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
    if columns <= 0 and sys.__stdout__ is not None:
        with suppress(ValueError, OSError):
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns
    return columns if columns > 0 else 80
