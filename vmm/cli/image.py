"""``vmm image``: build, list or remove the cached guest images."""

import argparse
import sys
from pathlib import Path

from virtio.errors import ConfigurationError
from vmm.x86 import check_cpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="build what is missing of the default guest")
    build.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="the kernel for so many processors (1)"
    )
    build.add_argument(
        "--bzimage", action="store_true", help="with the kernel's second form, for other tools"
    )
    build.add_argument(
        "--debug",
        action="store_true",
        help="a kernel for debuggers: with its symbols (DWARF) in a file beside it, and a note in"
        " memory that tells where to begin",
    )
    build.add_argument(
        "--usual",
        action="store_true",
        help="no kernel of ours where this host boots a stock one as well: what vmm run takes",
    )
    actions.add_parser("list", help="list the cached images and their sizes")
    remove = actions.add_parser("remove", help="remove cached images")
    remove.add_argument("names", nargs="*", metavar="NAME", help="as listed")
    remove.add_argument("--all", action="store_true", help="remove every one")
    initramfs = actions.add_parser("initramfs", help="make an initial RAM disk")
    _add_initramfs_arguments(initramfs)


def _add_initramfs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write")
    parser.add_argument("--init", metavar="FILE", help="/init (default: our own)")
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


def _build(options: argparse.Namespace) -> None:
    from vmm.image import default_initramfs, default_kernel, demo_disk, find_kernel
    from vmm.image.progress import ProgressLine
    from vmm.image.usual_kernel import usual_kernel

    check_cpus(options.cpus)
    if options.debug and options.usual:
        raise ConfigurationError("--debug: it is a kernel of ours; take --usual away")
    progress = ProgressLine(sys.stderr)
    try:
        stock = usual_kernel(progress, cpus=options.cpus) if options.usual else None
        if stock is not None:
            kernels = [find_kernel(stock).image]
        else:
            ours = default_kernel(
                progress, cpus=options.cpus, bzimage=options.bzimage, debug=options.debug
            )
            forms = (ours.vmlinux, ours.bzimage, ours.symbols)
            kernels = [path for path in forms if path is not None]
        initramfs = default_initramfs()
        disk = demo_disk(progress)
    finally:
        progress.close()
    for path in (*kernels, initramfs, disk):
        print(path)


def _list(options: argparse.Namespace) -> None:
    from vmm.image import entries, unfinished

    for entry in (*entries(), *unfinished()):
        mark = "  (unfinished)" if entry.unfinished else ""
        print(f"{entry.size_bytes / (1 << 20):8.1f} MiB  {entry.name}{mark}")


def _remove(options: argparse.Namespace) -> None:
    from vmm.image import entries, remove, unfinished
    from vmm.image.cache import is_at_work

    if options.all:
        for entry in (*entries(), *unfinished()):
            if not (entry.unfinished and is_at_work(entry)):
                remove(entry.name)
        return
    for name in options.names:
        if not remove(name):
            raise ConfigurationError(f"{name}: no such cached image; vmm image list shows them")


def _initramfs(options: argparse.Namespace) -> None:
    from vmm.host.new_file import replace_file
    from vmm.image import initramfs_from_options

    data = initramfs_from_options(
        options.file, options.dir, options.init, busybox=not options.no_busybox
    )
    replace_file(options.output, data)
