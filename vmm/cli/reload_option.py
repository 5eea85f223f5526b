"""``vmm run --reload``: devices follow their files."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError
from virtio.frames import clear_frames
from virtio.log import Logger
from virtio.rate import TokenBucket
from vmm.authoring.file_watch import FileWatch
from vmm.authoring.reloading import Reloader
from vmm.console.text import printable
from vmm.sandbox.mode import usual_mode

if TYPE_CHECKING:
    from argparse import Namespace

    from transport.core import VirtioTransport
    from vmm.machine import Machine

FAILURES_PER_SECOND: Final = 10

_log = Logger(__name__)


def check_reload(options: Namespace) -> None:
    """Raise :class:`ConfigurationError` where nothing can be reloaded."""
    if not options.device:
        raise ConfigurationError("--reload: it is for --device, which is not given")
    if options.jail:
        raise ConfigurationError("--reload: in a jail there are no files; take --jail away")
    if (mode := options.sandbox or usual_mode("off")) != "off":
        raise ConfigurationError(
            f"--reload: a machine in a sandbox ({mode}) opens no file; it needs --sandbox=off"
        )


def watch_files(machine: Machine, stack: ExitStack) -> FileWatch:
    """Return what watches the files of the devices, to be started when the guest runs.

    A device whose code fails waits with its chains until its file is saved.
    """
    reloader = Reloader(machine, tell)
    watch = FileWatch(reloader.files, reloader.reload)
    stack.callback(watch.close)
    # A guest may have a device fail as often as it resets it.
    lines = TokenBucket(FAILURES_PER_SECOND, FAILURES_PER_SECOND)
    machine.hardware.keep_failed(partial(_failed, reloader, lines))
    return watch


def tell(line: str) -> None:
    """Print a line of ours on stderr."""
    with suppress(OSError, ValueError):
        print(f"vmm: {printable(line)}", file=sys.stderr, flush=True)


def _failed(
    reloader: Reloader, lines: TokenBucket, transport: VirtioTransport, error: Exception
) -> bool:
    file = reloader.devices().get(transport.name)
    if file is None:
        return False
    if lines.take(1):
        _log.error(
            "%s: failed, and waits for %s to be saved: %r\n%s",
            transport.name,
            str(file.path),
            error,
            transport.situation(),
            traceback_of=error,
        )
    clear_frames(error.__traceback__)
    return True
