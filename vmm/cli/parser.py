"""The parser of the command line: help, and what is wrong with a line of words."""

import argparse
import importlib
import os
import sys
from contextlib import suppress
from typing import Final

_SUBCOMMANDS: Final = {
    "run": "boot a guest and connect this terminal to its console",
    "trace": "run a guest, and tell what it does, a line for each event",
    "top": "run a guest, and show rates, latencies, exits, and where its time goes",
    "check-driver": "run a guest, and tell which duties of a virtio driver it keeps",
    "shell": "run a guest, with it and its devices at a prompt of Python's",
    "snapshot": "boot a guest and save it, for others to go on from",
    "dump": "write a saved guest's memory and processors to a core file, for debuggers",
    "demo": "boot the default guest through a short demonstration",
    "image": "build, list or remove the cached guest images",
    "kernel": "list, fetch or remove the kernels that --kernel takes by name",
    "cache": "show and limit what the cache of guests takes, or remove some of it",
    "course": "learn how virtual machines work, in twelve chapters that run",
    "doctor": "tell whether this host can run guests, and what to do if not",
}


def parser_for(argv: list[str]) -> argparse.ArgumentParser:
    """Return the parser; of the subcommands it knows the options of the one in ``argv``."""
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
            module = importlib.import_module(f"vmm.cli.{name.replace('-', '_')}")
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
