"""Commands and files of a running guest, by the agent in it."""

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
from vmm.agent.protocol import PORT_NAME, ProtocolError, Ready

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
