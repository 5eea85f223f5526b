"""The guest of a test: its life, and the commands, files and devices that a test gives it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from virtio.block import Block, BlockBackend
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import ConfigurationError, Error
from vmm.agent import AgentLostError, GuestFileNotFoundError, Process, Result
from vmm.agent.client import Word
from vmm.agent.process import LIMIT_BYTES
from vmm.console.log import ConsoleLog
from vmm.disk.disk import DiskConfig
from vmm.ending.complaints import Complaint
from vmm.ending.ending import End, Ending
from vmm.machine import Machine
from vmm.share.config import ShareConfig, tag_of
from vmm.snapshot import Snapshot
from vmm.testing.boot import end_for, ended
from vmm.testing.config import GuestConfig
from vmm.testing.errors import GuestComplaintError, GuestEndedError
from vmm.testing.kernel_watch import KernelWatch
from vmm.testing.report import LastCommands, describe
from vmm.testing.time_limit import TimeLimit
from vmm.vsock import VsockHost

if TYPE_CHECKING:
    from drgn import Program

    from vmm.balloon.host import MachineBalloon
    from vmm.driver_check.live import MachineDoctor
    from vmm.share.directory import HostDirectory
    from vmm.trace import LiveTrace

_END_SECONDS: Final = 60.0


class Guest:
    """A Linux guest that goes on from a snapshot; the fixture ``guest`` is one.

    ``console`` holds the guest's output and takes input for it, ``machine`` is the machine below.
    ``limit`` is what is left of the test's time. A context manager.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        config: GuestConfig,
        limit: TimeLimit | None = None,
        tainted: int | None = None,
    ) -> None:
        """``tainted`` is the kernel's taint in the snapshot, where that is known."""
        self.config = config
        self.limit = limit or TimeLimit(config.deadline)
        sandbox = "off" if config.devices else config.sandbox
        self.machine = Machine.restore(snapshot, sandbox=sandbox)
        self._watch = KernelWatch(self.machine, tainted)
        self._commands = LastCommands()
        self._resources = ExitStack()
        self._ending_wanted = False
        self._fixed_report: str | None = "guest: it has not started"

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            # Disks outlive the machine, whose end may still write to them.
            disks: list[BlockBackend] = []
            for one in self.config.opened_disks():
                disk = one.open()
                resources.enter_context(disk)
                disks.append(disk)
            directories = self._opened_directories(resources)
            resources.enter_context(self.machine)
            self._fixed_report = None
            try:
                with self.limited():
                    self._set_up(disks, directories)
            except BaseException:
                self._fixed_report = self.report()
                raise
            self._resources = resources.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        # Where each vCPU is costs a moment, and nobody asks after a test that passed.
        closed = kind is None and self.machine.ending is None
        self._fixed_report = describe(self.machine, self._commands, positions=not closed)
        self._resources.close()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """End the guest if what is left of the test's time is over before the block is."""
        with self.limit.running(lambda: end_for(self.machine, self.limit)):
            yield

    @property
    def console(self) -> ConsoleLog:
        """The guest's console."""
        return self.machine.console

    @property
    def vsock(self) -> VsockHost:
        """The sockets between host and guest; for a guest that has been asked for with them."""
        return self.machine.vsock

    @property
    def balloon(self) -> MachineBalloon:
        """The guest's memory from outside; for a guest that has been asked for with a balloon."""
        return self.machine.balloon

    @property
    def trace(self) -> LiveTrace:
        """What the guest and its devices did since :meth:`traced`, or from the test's beginning.

        The latter with ``trace=True`` in the configuration. Raises :class:`ConfigurationError` in
        a guest that is not traced.
        """
        return self.machine.trace

    def traced(self) -> AbstractContextManager[LiveTrace]:
        """Trace the guest in a ``with`` block, which gives the trace; as ``Machine.traced``."""
        return self.machine.traced()

    def explain(self) -> MachineDoctor:
        """Return what tells the mistakes of the guest's drivers, from now on; see the guide.

        With ``explain=True`` in the configuration from the test's beginning.
        """
        return self.machine.explain()

    @property
    def devices(self) -> dict[str, VirtioDevice]:
        """The virtio devices by name: ``entropy``, ``console``, ``block0`` for the first disk.

        A device of the test's own has the name of its class in lower case, with a number.
        """
        return {one.name: one.device for one in self.machine.hardware.transports}

    @cached_property
    def drgn(self) -> Program:
        """A ``drgn.Program`` on the guest's memory: its kernel's objects, for assertions.

        For a guest with the kernel for debuggers, ``kernel="debug"``; as :meth:`vmm.Machine.drgn`,
        which takes the symbols of another kernel.
        """
        return self.machine.drgn()

    def run(
        self,
        argv: Sequence[Word],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        input: bytes | str = b"",
        timeout: float | None = None,
        check: bool = False,
        text: bool = True,
        merge_stderr: bool = False,
        replace_env: bool = False,
        limit_bytes: int = LIMIT_BYTES,
    ) -> Result:
        """Run a program in the guest to its end; as :meth:`vmm.agent.Agent.run`.

        ``timeout`` in seconds; the deadline of the test holds in any case. Raises
        :class:`GuestEndedError` when the guest ends meanwhile.
        """
        name = self._commands.started(argv)
        with self._asking(f"{name} ran"):
            result = self.machine.agent.run(
                argv,
                env=env,
                cwd=cwd,
                input=input,
                timeout=self.config.deadline if timeout is None else timeout,
                check=False,
                text=text,
                merge_stderr=merge_stderr,
                replace_env=replace_env,
                limit_bytes=limit_bytes,
            )
        self._commands.ended(argv, result)
        return result.check() if check else result

    def sh(
        self,
        script: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        input: bytes | str = b"",
        timeout: float | None = None,
        check: bool = True,
        text: bool = True,
        merge_stderr: bool = False,
        replace_env: bool = False,
        limit_bytes: int = LIMIT_BYTES,
    ) -> Any:
        """Run shell text and return its output, without the end of the last line.

        Takes what :meth:`run` takes; the output is ``bytes``, as it is, without ``text``.
        """
        result = self.run(
            ["sh", "-c", script],
            env=env,
            cwd=cwd,
            input=input,
            timeout=timeout,
            check=check,
            text=text,
            merge_stderr=merge_stderr,
            replace_env=replace_env,
            limit_bytes=limit_bytes,
        )
        output = result.stdout
        return output.removesuffix("\n") if isinstance(output, str) else output

    def start(self, argv: Sequence[Word], **options: Any) -> Process:
        """Start a program in the guest and return at once; as :meth:`vmm.agent.Agent.start`."""
        name = self._commands.started(argv)
        with self._asking(f"{name} was to start"):
            return self.machine.agent.start(argv, **options)

    def read_file(self, path: str) -> bytes:
        """Return the content of a file of the guest, within the deadline of the test."""
        with self._asking(f"{path!r} was read"):
            return self.machine.agent.read_file(path, self.config.deadline)

    def write_file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Make a file of the guest hold ``data``, within the deadline of the test."""
        with self._asking(f"{path!r} was written"):
            self.machine.agent.write_file(path, data, mode, self.config.deadline)

    def plug(self, device: VirtioDevice) -> VirtioDevice:
        """Add a device to the guest; returns when its driver has taken it."""
        with self._asking(f"its driver took {type(device).__name__}"):
            return self.machine.plug(_Only(device))

    def unplug(self, device: VirtioDevice | str, *, surprise: bool = False) -> None:
        """Take a device, or the one of that name, out of the guest; as ``Machine.unplug``."""
        with self._asking(f"its driver let {device} go"):
            self.machine.unplug(device, surprise=surprise)

    def wait(self, timeout: float = _END_SECONDS) -> Ending:
        """Wait for the guest's end, which then is no failure, and return it.

        Raises :class:`GuestEndedError` when the guest makes no end in time, and is ended.
        """
        started = monotonic()
        ending = self.machine.wait(timeout)
        if ending.end is End.TIMEOUT:
            raise GuestEndedError(ending, "the test waited for its end", monotonic() - started)
        self._ending_wanted = True
        return ending

    def crash(self) -> Ending:
        """Have the guest's kernel panic, for tests of what follows, and return that ending.

        Raises :class:`GuestEndedError` for a guest that ends otherwise.
        """
        started = monotonic()
        with self._asking("its kernel was to panic"):
            self.machine.agent.crash()
        ending = self.machine.wait(self.config.deadline)
        if ending.end is not End.PANIC:
            raise GuestEndedError(ending, "its kernel was to panic", monotonic() - started)
        self._ending_wanted = True
        return ending

    def check(self) -> None:
        """Raise :class:`GuestEndedError` when the guest has ended and nobody asked for it."""
        ending = self.machine.ending
        if ending is not None and not self._ending_wanted:
            raise GuestEndedError(ending)

    def kernel_log(self) -> list[str]:
        """Return what the kernel printed in this test so far, a line each, safe to show.

        Also what programs wrote to ``/dev/kmsg``.
        """
        self._watch.look()
        return self._watch.lines

    def complaints(self) -> list[Complaint]:
        """Return the kernel's complaints in this test: its reports, and changes of its taint.

        They are the test's own from then on, and do not fail it.
        """
        self._watch.look()
        return self._watch.take()

    def begin_test(self, limit: TimeLimit) -> None:
        """Give a guest that goes on the time of another test, which has its own complaints."""
        self.limit = limit
        self._watch.begin()

    def check_complaints(self, config: GuestConfig) -> None:
        """Raise :class:`GuestComplaintError` for complaints that ``config`` does not allow.

        A guest that has ended unasked is left to :meth:`check`.
        """
        if self.machine.ending is not None and not self._ending_wanted:
            return
        try:
            self._watch.look()
        except Error:
            if config.allow_complaints is not True:
                raise
        wrong = [one for one in self._watch.complaints() if not config.allows(one)]
        if wrong:
            raise GuestComplaintError(wrong)

    def kernel_lines(self, timeout: float | None) -> list[str]:
        """Return what the kernel printed in this test; with a ``timeout`` it is asked once more."""
        try:
            if timeout is not None:
                self._watch.look(timeout)
        except Error as error:
            return [*self._watch.lines, f"the kernel's log is not to be had: {error}"]
        return self._watch.lines

    def report(self) -> str:
        """Return the state of the guest, for a person who looks for what went wrong.

        It is that of now, or of the moment when the guest was closed.
        """
        if self._fixed_report is not None:
            return self._fixed_report
        return describe(self.machine, self._commands)

    def _opened_directories(self, resources: ExitStack) -> list[HostDirectory]:
        shares = self.config.opened_shares()
        if not shares:
            return []
        from vmm.share.shares import open_shares

        return open_shares(shares, resources)

    def _mount(self, index: int, share: ShareConfig, directory: HostDirectory) -> None:
        """Plug a share, and mount it where the test wants it."""
        from vmm.share.shares import share_device

        self.plug(share_device(share, index, directory))
        how = "rw" if share.writable else "ro"
        self.run(["mkdir", "-p", share.target], check=True)
        options = ["-t", "virtiofs", "-o", how, tag_of(share, index), share.target]
        self.run(["mount", *options], check=True)

    def _set_up(self, disks: Sequence[BlockBackend], directories: Sequence[HostDirectory]) -> None:
        if self.config.trace:
            _ = self.machine.start_trace().trace
        if self.config.explain:
            self.machine.explain()
        self.machine.resume()
        for config, disk in zip(self.config.opened_disks(), disks, strict=True):
            self.plug(_block(config, disk))
        pairs = zip(self.config.opened_shares(), directories, strict=True)
        for index, (share, directory) in enumerate(pairs):
            self._mount(index, share, directory)
        for net in self.config.networks():
            with self._asking("plug a network card"):
                self.machine.plug(net)
        for make in self.config.devices:
            self.plug(make())
        for path, content in self.config.files.items():
            self._put(path, content)

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Tell the guest's end as that, with what the test was ``doing``."""
        started = monotonic()
        try:
            yield
        except AgentLostError as error:
            raise ended(self.machine, error.doing or doing, monotonic() - started) from None

    def _put(self, path: str, content: str | bytes | Path) -> None:
        mode = content.stat().st_mode & 0o7777 if isinstance(content, Path) else 0o644
        data = content.read_bytes() if isinstance(content, Path) else content
        try:
            try:
                self.write_file(path, data, mode)
            except GuestFileNotFoundError:
                self.run(["mkdir", "-p", posixpath.dirname(path)], check=True)
                self.write_file(path, data, mode)
        except Error as error:
            error.add_note(f"while {path} of files= was written, {len(data)} bytes")
            raise


class _Only:
    """Gives its one device once: another machine with such a device has to make it."""

    def __init__(self, device: VirtioDevice) -> None:
        self._device: VirtioDevice | None = device

    def __call__(self) -> VirtioDevice:
        device, self._device = self._device, None
        if device is None:
            raise ConfigurationError(
                "a device that a test plugged in is in its guest: no other machine can have it;"
                " plug it by Machine.plug with its maker"
            )
        return device


def _block(config: DiskConfig, backend: BlockBackend) -> Block:
    return Block(backend, serial=config.serial, block_size=config.block_size, queues=config.queues)
