"""``vmm image``: build, list or remove the cached guest images."""

import argparse
import sys
from pathlib import Path

from virtio.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("build", help="build what is missing of the default guest")
    actions.add_parser("list", help="list the cached images and their sizes")
    remove = actions.add_parser("remove", help="remove cached images")
    which = remove.add_mutually_exclusive_group(required=True)
    which.add_argument("names", nargs="*", default=[], metavar="NAME", help="as listed")
    which.add_argument("--all", action="store_true", help="remove every one")
    initramfs = actions.add_parser("initramfs", help="make an initial RAM disk")
    _add_initramfs_arguments(initramfs)


def _add_initramfs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    parser.add_argument("--init", type=Path, metavar="FILE", help="/init (default: our own)")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="SRC[:DST]",
        help="a file to add, by default at the same path; may be repeated",
    )
    parser.add_argument(
        "--dir",
        action="append",
        default=[],
        metavar="SRC[:DST]",
        help="a directory to add with all that is in it; may be repeated",
    )
    parser.add_argument("--no-busybox", action="store_true", help="leave BusyBox out")


def execute(options: argparse.Namespace) -> int:
    """Carry out the action and return the exit status."""
    action = {"build": _build, "list": _list, "remove": _remove, "initramfs": _initramfs}
    action[options.action](options)
    return 0
