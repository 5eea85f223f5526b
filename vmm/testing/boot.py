"""The boot of a guest for tests: bounded by the time of the test that needs it, and reported on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Final

from vmm.agent import AgentLostError, AgentTimeoutError
from vmm.ending.complaints import Complaint
from vmm.ending.ending import End
from vmm.machine import Machine
from vmm.testing.config import GuestConfig
from vmm.testing.errors import GuestComplaintError, GuestEndedError
from vmm.testing.report import LastCommands, describe
from vmm.testing.time_limit import TimeLimit

_LAST_SECONDS: Final = 60.0


@contextmanager
def booting(
    machine: Machine, limit: TimeLimit, on_failure: Callable[[str], object] = lambda report: None
) -> Iterator[None]:
    """Let a machine boot in the block, for as long as the test's limit allows.

    ``on_failure`` gets the report on the machine when the block fails. Raises
    :class:`GuestEndedError` when the guest ends before it is ready.
    """
    started = monotonic()
    try:
        with limit.running(lambda: end_for(machine, limit)):
            yield
    except AgentLostError:
        error = ended(machine, "the guest booted", monotonic() - started)
        on_failure(describe(machine, LastCommands()))
        raise error from None
    except BaseException:
        if machine.threads:
            on_failure(describe(machine, LastCommands()))
        raise


def check_boot(complaints: Sequence[Complaint], config: GuestConfig) -> None:
    """Raise :class:`GuestComplaintError` for what a kernel may not complain of as it boots."""
    if wrong := [one for one in complaints if not config.allows(one)]:
        raise GuestComplaintError(wrong, "it booted")


def end_for(machine: Machine, limit: TimeLimit) -> None:
    """End a machine whose test is out of time."""
    machine.end(End.TIMEOUT, f"the test's deadline of {limit.seconds:g} s passed")


def ended(machine: Machine, doing: str, seconds: float) -> GuestEndedError | AgentLostError:
    """Return the error for what a machine's end, or its agent's, has cut off."""
    await_end(machine)
    ending = machine.ending
    if ending is None:
        return AgentLostError(f"the guest's agent began anew while {doing} ({seconds:.1f} s)")
    return GuestEndedError(ending, doing, seconds)


def await_end(machine: Machine) -> None:
    """Wait for what follows when a machine's agent is lost: the end, or an agent that serves.

    On its way to the end a guest closes the agent's port, and ends a moment later.
    """
    with suppress(AgentLostError, AgentTimeoutError):
        machine.agent.wait_ready(_LAST_SECONDS)
