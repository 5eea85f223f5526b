"""Commands and files of a running guest, by the agent in it.

The names below are imported when they are first used: most machines have no agent.
"""

from typing import TYPE_CHECKING, Final

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.agent.client import Agent
    from vmm.agent.errors import (
        AgentLostError,
        AgentTimeoutError,
        CommandFailed,
        CommandTimeoutError,
        GuestFileNotFoundError,
        GuestOSError,
        GuestPermissionError,
        OutputLimitError,
    )
    from vmm.agent.job import Output
    from vmm.agent.link import Channel
    from vmm.agent.process import Process, Result
    from vmm.agent.protocol import ProtocolError, Ready

__all__ = [
    "PORT_NAME",
    "Agent",
    "AgentLostError",
    "AgentTimeoutError",
    "Channel",
    "CommandFailed",
    "CommandTimeoutError",
    "GuestFileNotFoundError",
    "GuestOSError",
    "GuestPermissionError",
    "Output",
    "OutputLimitError",
    "Process",
    "ProtocolError",
    "Ready",
    "Result",
]

PORT_NAME: Final = "vmm.agent"
"""The name of the virtio console port between the agent and the host."""

__getattr__ = lazy_names(
    __name__,
    {
        "client": ("Agent",),
        "errors": (
            "AgentLostError",
            "AgentTimeoutError",
            "CommandFailed",
            "CommandTimeoutError",
            "GuestFileNotFoundError",
            "GuestOSError",
            "GuestPermissionError",
            "OutputLimitError",
        ),
        "job": ("Output",),
        "link": ("Channel",),
        "process": ("Process", "Result"),
        "protocol": ("ProtocolError", "Ready"),
    },
)
