"""``vmm cache``: show what the cache takes and why each part is kept; trim it, or remove parts."""

import argparse
import time
from collections.abc import Iterable
from typing import Final

from virtio.errors import ConfigurationError
from vmm.host.size import parse_size
from vmm.image.cache import Entry, entries, is_at_work, remove, unfinished
from vmm.image.cache_place import places, root
from vmm.image.cache_room import LIMIT_VARIABLE, SNAPSHOT_PREFIX, is_held, limit_bytes, trim

_MEBIBYTE: Final = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of this command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list all with size, last use, and why it is kept (default)")
    trimming = actions.add_parser(
        "trim", help="evict snapshots that are not in use, the least recently used first"
    )
    trimming.add_argument(
        "--limit",
        metavar="SIZE",
        help=f"down to SIZE in all, such as 1G (default: ${LIMIT_VARIABLE}, else 4G)",
    )
    removing = actions.add_parser("remove", help="remove entries")
    removing.add_argument("names", nargs="*", metavar="NAME", help="as listed")
    removing.add_argument("--all", action="store_true", help="remove every one")
    removing.add_argument("--snapshots", action="store_true", help="remove all snapshots")
    removing.add_argument("--unfinished", action="store_true", help="remove what builds left")


def execute(options: argparse.Namespace) -> int:
    """Carry out the action and return the exit status."""
    action = {None: _list, "list": _list, "trim": _trim, "remove": _remove}
    action[options.action](options)
    return 0


def _list(options: argparse.Namespace) -> None:
    limit = limit_bytes()
    complete, rest = entries(), unfinished()
    snapshots = [one for one in complete if one.name.startswith(SNAPSHOT_PREFIX)]
    for place in places() or [root()]:
        print(f"cache {place}")
    for one in sorted((*complete, *rest), key=lambda one: one.used):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used))
        print(f"{_mebibytes([one])}  {used}  {one.name}  {_reason(one)}")
    print(
        f"{_mebibytes((*complete, *rest))} in all; {_mebibytes(snapshots).strip()} of it are"
        f" snapshots, which may take {limit / _MEBIBYTE:.1f} MiB ({LIMIT_VARIABLE})"
    )


def _reason(entry: Entry) -> str:
    if entry.unfinished:
        if is_at_work(entry):
            return "(being made)"
        return "(unfinished: the next build goes on with it, or removes it)"
    if not entry.name.startswith(SNAPSHOT_PREFIX):
        return "(kept until it is removed)"
    return "(in use)" if is_held(entry.path) else "(evicted past the limit, the oldest use first)"


def _mebibytes(some: Iterable[Entry]) -> str:
    return f"{sum(one.size_bytes for one in some) / _MEBIBYTE:8.1f} MiB"


def _trim(options: argparse.Namespace) -> None:
    gone = trim(None if options.limit is None else parse_size(options.limit))
    for one in gone:
        print(f"removed {one.name}: {_mebibytes([one]).strip()}")


def _remove(options: argparse.Namespace) -> None:
    complete, rest = entries(), unfinished()
    names = list(options.names)
    if options.all or options.snapshots:
        names += [one.name for one in complete if options.all or _is_snapshot(one)]
    if options.all or options.unfinished:
        names += [one.name for one in rest if not is_at_work(one)]
    if not (names or options.all or options.snapshots or options.unfinished):
        raise ConfigurationError(
            "vmm cache remove: needs a NAME, --all, --snapshots or --unfinished"
        )
    known = {one.name for one in (*complete, *rest)}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{name}: not in the cache; vmm cache list shows what is")
        remove(name)


def _is_snapshot(entry: Entry) -> bool:
    return entry.name.startswith(SNAPSHOT_PREFIX)
