"""The guest of a test: its life, and the commands, files and devices that a test gives it."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from virtio.block import Block, BlockBackend
from virtio.device.lifecycle import VirtioDevice
from virtio.errors import Error
from vmm.agent import AgentLostError, GuestFileNotFoundError, Result
from vmm.console.log import ConsoleLog
from vmm.disk.disk import DiskConfig
from vmm.ending.deadline import deadline
from vmm.ending.ending import End, Ending
from vmm.machine import Machine
from vmm.snapshot import Snapshot
from vmm.testing.config import GuestConfig
from vmm.testing.report import LastCommands, describe

_END_SECONDS: Final = 60.0


class GuestEndedError(Error):
    """The guest ended while the test was using it; ``ending`` tells how."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.message)
        self.ending = ending


class Guest:
    """A Linux guest that goes on from a snapshot; the fixture ``guest`` is one.

    ``console`` holds the guest's output and takes input for it, ``machine`` is the machine below.
    A context manager.
    """

    def __init__(self, snapshot: Snapshot, config: GuestConfig) -> None:
        self.config = config
        self.machine = Machine.restore(snapshot)
        self._commands = LastCommands()
        self._resources = ExitStack()
        self._ending_wanted = False

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            # Disks outlive the machine, whose end may still write to them.
            disks: list[BlockBackend] = []
            for one in self.config.opened_disks():
                disk = one.open()
                resources.enter_context(disk)
                disks.append(disk)
            resources.enter_context(self.machine)
            with self.limited():
                self._set_up(disks)
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """End the guest if the block takes longer than the deadline of the configuration."""
        with deadline(self.config.deadline, self._out_of_time):
            yield

    @property
    def console(self) -> ConsoleLog:
        """The guest's console."""
        return self.machine.console

    @property
    def devices(self) -> dict[str, VirtioDevice]:
        """The virtio devices by name: ``entropy``, ``console``, ``block0`` for the first disk.

        A device of the test's own has the name of its class in lower case, with a number.
        """
        return {one.name: one.device for one in self.machine.hardware.transports}

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        input: bytes | str = b"",
        timeout: float | None = None,
        check: bool = False,
        text: bool = True,
    ) -> Result:
        """Run a program in the guest to its end; as :meth:`vmm.agent.Agent.run`.

        ``timeout`` in seconds; the deadline of the test holds in any case. Raises
        :class:`GuestEndedError` when the guest ends meanwhile.
        """
        self._commands.started(argv)
        seconds = self.config.deadline if timeout is None else timeout
        result: Result = self._ask(
            "run", argv, env=env, cwd=cwd, input=input, timeout=seconds, check=check, text=text
        )
        self._commands.ended(result)
        return result

    def sh(self, text: str, *, timeout: float | None = None, check: bool = True) -> str:
        """Run shell text and return its output, without the end of the last line."""
        result = self.run(["sh", "-c", text], timeout=timeout, check=check)
        return str(result.stdout).removesuffix("\n")

    def read_file(self, path: str) -> bytes:
        """Return the content of a file of the guest, within the deadline of the test."""
        data: bytes = self._ask("read_file", path, self.config.deadline)
        return data

    def write_file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Make a file of the guest hold ``data``, within the deadline of the test."""
        self._ask("write_file", path, data, mode, self.config.deadline)

    def plug(self, device: VirtioDevice) -> VirtioDevice:
        """Add a device to the guest; returns when its driver has taken it."""
        try:
            self.machine.plug(lambda: device)
        except AgentLostError as error:
            raise self._ended() from error
        return device

    def wait(self, timeout: float = _END_SECONDS) -> Ending:
        """Wait for the guest's end, which then is no failure, and return it."""
        self._ending_wanted = True
        return self.machine.wait(timeout)

    def check(self) -> None:
        """Raise :class:`GuestEndedError` when the guest has ended and nobody asked for it."""
        ending = self.machine.ending
        if ending is not None and not self._ending_wanted:
            raise GuestEndedError(ending)

    def report(self) -> str:
        """Return the state of the guest now, for a person who looks for what went wrong."""
        return describe(self.machine, self._commands)

    def _set_up(self, disks: Sequence[BlockBackend]) -> None:
        self.machine.resume()
        for config, disk in zip(self.config.opened_disks(), disks, strict=True):
            self.plug(_block(config, disk))
        for make in self.config.devices:
            self.plug(make())
        for path, content in self.config.files.items():
            self._put(path, content)

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self.machine.agent, method)(*arguments, **options)
        except AgentLostError as error:
            raise self._ended() from error

    def _ended(self) -> Error:
        ending = self.machine.ending
        return GuestEndedError(ending) if ending else AgentLostError("the guest's agent is gone")

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

    def _out_of_time(self) -> None:
        self.machine.end(End.TIMEOUT, f"the test's deadline of {self.config.deadline:g} s passed")


def _block(config: DiskConfig, backend: BlockBackend) -> Block:
    return Block(backend, serial=config.serial, block_size=config.block_size, queues=config.queues)
