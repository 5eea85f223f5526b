"""``vmm kernel``: list, fetch or remove the kernels that ``--kernel`` takes by name."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing

from virtio.errors import ConfigurationError
from vmm.image import debian_kernel
from vmm.image.cache import Entry, entries, remove
from vmm.image.progress import ProgressLine
from vmm.kernel_choice import DEBIAN, HOST, debian_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", help="list the kernels that are at hand (default)")
    listing.add_argument(
        "--available", action="store_true", help="list those of Debian's that apt can fetch"
    )
    fetch = actions.add_parser("fetch", help="fetch kernels of Debian's, or newer ones than before")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="such as debian, debian:6.12")
    removing = actions.add_parser("remove", help="remove fetched kernels from the cache")
    removing.add_argument("names", nargs="*", metavar="NAME", help="a name or release, as listed")
    removing.add_argument("--all", action="store_true", help="remove every one")


def execute(options: argparse.Namespace) -> int:
    """Carry out the action and return the exit status."""
    action = {None: _list, "list": _list, "fetch": _fetch, "remove": _remove}
    action[options.action](options)
    return 0


def _list(options: argparse.Namespace) -> None:
    if getattr(options, "available", False):
        for name, release in debian_kernel.available():
            print(f"{name:20}  {release}")
        return
    for name, release, note in _at_hand():
        print(f"{name:20}  {release:28}  {note}".rstrip())


def _at_hand() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each kernel that needs no fetching, its release, and more about it."""
    from vmm.image.kernel import cached_kernel
    from vmm.image.kernels import find_kernel

    for cpus, name in ((1, "(default)"), (2, "(default, --cpus)")):
        if ours := cached_kernel(cpus=cpus):
            yield name, ours.release, "built here"
    try:
        host = find_kernel(HOST)
        yield HOST, host.release, str(host.image)
    except ConfigurationError as error:
        yield HOST, "", f"not at hand: {str(error).partition(': ')[2]}"
    names = debian_kernel.known_names()
    for entry in _fetched():
        own = [name for name, meant in names.items() if meant == entry.name]
        size = f"{entry.size_bytes / (1 << 20):.0f} MiB"
        for name in own or ["(no name any more)"]:
            yield name, debian_kernel.release_of(entry.name), size


def _fetched() -> list[Entry]:
    return [one for one in entries() if one.name.startswith(debian_kernel.PREFIX)]


def _fetch(options: argparse.Namespace) -> None:
    for name in options.names:
        if name == HOST or not name.startswith(DEBIAN):
            raise ConfigurationError(
                f"{name}: only kernels of Debian's are fetched: debian:VERSION"
            )
        debian_name(name)
    for name in options.names:
        with closing(ProgressLine(sys.stderr)) as progress:
            entry = debian_kernel.fetch(name, progress)
        print(f"{name:20}  {debian_kernel.release_of(entry.name)}")


def _remove(options: argparse.Namespace) -> None:
    there = [one.name for one in _fetched()]
    if not (options.names or options.all):
        raise ConfigurationError("vmm kernel remove: needs a NAME or --all")
    wanted = list(there) if options.all else []
    names = debian_kernel.known_names()
    for name in options.names:
        found = [one for one in there if name in (debian_kernel.release_of(one), one)]
        found += [names[name]] if names.get(name) in there else []
        if not found:
            raise ConfigurationError(f"{name}: no fetched kernel; vmm kernel list shows them")
        wanted += found
    for entry in dict.fromkeys(wanted):
        remove(entry)
        print(f"removed {debian_kernel.release_of(entry)}")
