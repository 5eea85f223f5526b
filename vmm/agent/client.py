"""Runs commands in a guest and reads and writes its files, through the agent that it runs."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from virtio.errors import ConfigurationError, Error
from vmm.agent import files, protocol
from vmm.agent.answers import Ready
from vmm.agent.errors import AgentProtocolError, guest_error
from vmm.agent.job import CREDIT_BYTES, Job
from vmm.agent.link import AgentPort, Link
from vmm.agent.process import LIMIT_BYTES, Process, Result
from vmm.agent.protocol import Flag, How, Power, Request
from vmm.agent.user import User
from vmm.host.clock import deadline_in

if TYPE_CHECKING:
    from vmm.agent.kernel_log import KernelLog

READY_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 60.0
_MOST_MS: Final = 0xFFFFFFFF

Word = str | bytes | os.PathLike[str]


class Agent:
    """The agent in a guest, over the console port of the name ``vmm.agent``.

    Every method may be called from any thread, and by several at once: the guest does 16 things at
    a time, further ones wait. Each waits until the agent is ready, and for nothing longer than its
    time, whatever the guest does. All raise ``AgentLostError`` when the agent begins anew
    meanwhile, ``AgentProtocolError`` when it says what cannot be, and the error that ``fail`` was
    given when the machine has ended.
    """

    def __init__(self, port: AgentPort, told: Callable[[], str] = lambda: "") -> None:
        """``told`` returns what the guest printed last; it ends the error of a wait for it."""
        self._link = Link(port, told)

    def wait_ready(self, timeout: float = READY_SECONDS) -> Ready:
        """Wait until the agent serves, in a restored guest one that is up to date.

        Raises ``AgentTimeoutError``.
        """
        return self._link.wait_ready(deadline_in(timeout))

    def ping(self, timeout: float = ANSWER_SECONDS) -> Ready:
        """Have the agent answer now; raises ``AgentTimeoutError``."""
        deadline = deadline_in(timeout)
        return self._link.begin(Request.HELLO, b"", deadline).wait_ready(deadline)

    def run(
        self,
        argv: Sequence[Word],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        input: bytes | str = b"",
        timeout: float = 60.0,
        check: bool = False,
        text: bool = True,
        merge_stderr: bool = False,
        replace_env: bool = False,
        limit_bytes: int = LIMIT_BYTES,
    ) -> Result:
        """Run a program of the guest to its end, as ``subprocess.run`` does on the host.

        ``argv[0]`` is searched for in PATH when it has no slash, then among BusyBox's applets.
        ``env`` is added to the agent's own environment, or replaces it. The command is over when
        its own process is: what it leaves running in the background goes on, without an output.
        With ``text`` the output is ``str``, where what is not UTF-8 is replaced.

        After ``timeout`` seconds it is killed with its process group, and ``CommandTimeoutError``
        raised, with the output so far. Raises ``CommandFailed`` for a status other than 0 with
        ``check``, ``GuestOSError`` when the guest cannot execute it (such as
        ``GuestFileNotFoundError``), ``OutputLimitError`` above ``limit_bytes`` of output.
        """
        with self.start(
            argv,
            env=env,
            cwd=cwd,
            stdin=bool(input),
            timeout=timeout,
            merge_stderr=merge_stderr,
            replace_env=replace_env,
        ) as process:
            result = process.communicate(input, text=text, limit_bytes=limit_bytes)
        return result.check() if check else result

    def start(
        self,
        argv: Sequence[Word],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
        timeout: float | None = None,
        merge_stderr: bool = False,
        replace_env: bool = False,
        terminal: tuple[int, int] | None = None,
        user: User | None = None,
    ) -> Process:
        """Start a program of the guest and return at once; as ``run``, which says more.

        Without ``stdin`` its standard input is empty. Without ``timeout`` it may run for ever.
        With ``terminal``, a size in columns and rows, input and output are a terminal of its own,
        and with ``merge_stderr`` its errors as well. With ``user`` it is that one's, else root's.
        """
        words = _words(argv)
        shown = [os.fsdecode(word) for word in words]
        flags = Flag.MERGE_ERRORS if merge_stderr else Flag(0)
        flags |= Flag.WITH_INPUT if stdin else Flag(0)
        flags |= Flag.TERMINAL if terminal else Flag(0)
        flags |= Flag.REPLACE_ENVIRONMENT if replace_env else Flag(0)
        if user is not None:
            flags |= Flag.AS_USER
            words = [user.word(), *words]
        request = protocol.command(
            words,
            _variables(env or {}),
            _encoded(cwd or ""),
            flags=flags,
            timeout_ms=_milliseconds(timeout),
            credit=CREDIT_BYTES,
            size=terminal or (0, 0),
        )
        what = " ".join(shown)
        job = self._link.begin(Request.RUN, request, deadline_in(READY_SECONDS), what=what)
        return Process(job, shown, folder=cwd, timeout=timeout, has_input=stdin or bool(terminal))

    def read_file(
        self, path: Word, timeout: float | None = None, *, limit_bytes: int = LIMIT_BYTES
    ) -> bytes:
        """Return what a file of the guest holds, one of ``/proc`` or ``/sys`` too.

        It has ``timeout`` seconds, by default 60 and one more for each 64 KiB. Raises
        ``GuestOSError``, ``OutputLimitError``, ``AgentTimeoutError``.
        """
        return files.read_file(self._link, _encoded(path), timeout, limit_bytes)

    def write_file(
        self, path: Word, data: bytes | str, mode: int = 0o644, timeout: float | None = None
    ) -> None:
        """Make a file of the guest hold ``data``; ``mode`` is for a file that was not there.

        Up to 16 KiB are one write(2), as attributes in ``/proc`` and ``/sys`` want it. The time and
        the errors are those of :meth:`read_file`.
        """
        content = data.encode() if isinstance(data, str) else data
        files.write_file(self._link, _encoded(path), content, mode, timeout)

    def kernel_log(self, timeout: float = ANSWER_SECONDS) -> "KernelLog":
        """Return what the guest's kernel printed since this was last asked, and its taint.

        It is the whole log at first, then what came since; a restored guest goes on after what the
        saved one was asked for. Raises ``GuestOSError`` when the kernel keeps no log.
        """
        from vmm.agent.kernel_log import read_log

        return read_log(self._link, deadline_in(timeout))

    def refresh(
        self, seed: bytes, unix_time_ns: int | None = None, timeout: float = ANSWER_SECONDS
    ) -> None:
        """Seed the guest's random generator, up to 512 bytes, and set its clock if there is a time.

        For a guest that was restored: its copies would give the same random numbers.
        """
        deadline = deadline_in(timeout)
        self._check_refresh(self._begin_refresh(seed, unix_time_ns, deadline), deadline)

    def hold(self) -> None:
        """Have all calls wait, each for its time, until :meth:`renew` lets them through."""
        self._link.hold()

    def renew(
        self, seed: bytes, unix_time_ns: int | None = None, timeout: float = ANSWER_SECONDS
    ) -> None:
        """Reset the agent and refresh the guest, before any call that was held does something."""
        deadline = deadline_in(timeout)
        try:
            self._link.reset(deadline)
            job = self._begin_refresh(seed, unix_time_ns, deadline, first=True)
        finally:
            self._link.release()
        self._check_refresh(job, deadline)

    def reset(self, timeout: float = READY_SECONDS) -> Ready:
        """Close and reopen the host's end: the agent kills all commands and begins anew.

        The agent forgets what was under way, also what another process asked that saved the guest.
        Raises ``AgentTimeoutError`` when the guest does not notice.
        """
        return self._link.reset(deadline_in(timeout))

    def power_off(self, timeout: float = ANSWER_SECONDS) -> None:
        """End the machine, and wait until it has."""
        self._end(Power.OFF, 0, timeout)

    def reboot(self, timeout: float = ANSWER_SECONDS) -> None:
        """Reset the machine; as ``power_off``."""
        self._end(Power.REBOOT, 0, timeout)

    def report(self, status: int, timeout: float = ANSWER_SECONDS) -> None:
        """End the machine with a status, 0 to 255, through the debug-exit port."""
        if not 0 <= status <= 255:
            raise ConfigurationError(f"agent: status {status}: must be 0 to 255")
        self._end(Power.REPORT, status, timeout)

    def crash(self, timeout: float = ANSWER_SECONDS) -> None:
        """Have the guest's kernel panic; as ``power_off``.

        By SysRq (Linux admin-guide/sysrq.rst), or where the kernel has none by the end of its first
        process, if that is the agent. Raises ``GuestOSError`` when there is neither.
        """
        self._end(Power.PANIC, 0, timeout)

    def watch(self, on_step: Callable[[str, int, str], object]) -> None:
        """Tell of each request (its kind, number and words), of its answer, and of the agent's.

        ``on_step`` is called with a lock held: it must be quick, and ask nothing of the agent.
        """
        self._link.on_step = on_step

    def interrupt(self, error: Exception | None) -> None:
        """Let every call that waits, and each later one that would, raise ``error``.

        For a machine that stands still: nothing would come. With None calls wait again.
        """
        self._link.interrupt(error)

    def fail(self, error: Exception) -> None:
        """Say that the machine has ended: all calls, waiting and later, raise ``error``."""
        self._link.fail(error)

    def _begin_refresh(
        self, seed: bytes, unix_time_ns: int | None, deadline: float, *, first: bool = False
    ) -> Job:
        request = protocol.refreshment(seed, unix_time_ns or 0)
        return self._link.begin(Request.REFRESH, request, deadline, first=first)

    def _check_refresh(self, job: Job, deadline: float) -> None:
        status = job.wait(deadline)
        if status.how == How.FAILED:
            raise guest_error(status.value, "refresh", "clock and random generator")

    def _end(self, how: Power, status: int, timeout: float) -> None:
        deadline = deadline_in(timeout)
        request = bytes([how, status])
        job = self._link.begin(Request.POWER, request, deadline)
        try:
            answer = job.wait(deadline)
        except (TimeoutError, AgentProtocolError):
            raise
        except Error:  # the end of the machine ends all calls, that of the port comes before it
            self._link.wait_failed(deadline)
            return
        if answer.how == How.FAILED:
            raise guest_error(answer.value, "end", "machine")
        self._link.wait_failed(deadline)  # the guest was quicker to say so than the host to see it


def _words(argv: Sequence[Word]) -> list[bytes]:
    if isinstance(argv, str | bytes):
        raise TypeError("argv must be a sequence of words; for shell text: ['sh', '-c', text]")
    if not argv:
        raise ValueError("argv must hold the program at least")
    return [_encoded(word) for word in argv]


def _variables(env: Mapping[str, str]) -> list[bytes]:
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"environment variable {name!r}: must be a name without '='")
    return [_encoded(f"{name}={value}") for name, value in env.items()]


def _encoded(word: Word) -> bytes:
    data = os.fsencode(word)
    if b"\0" in data:
        raise ValueError(f"{word!r}: a zero byte cannot be passed to a program")
    return data


def _milliseconds(timeout: float | None) -> int:
    if timeout is None:
        return 0
    return max(1, math.ceil(min(timeout * 1000, _MOST_MS)))
