"""Commands and files of a running guest, by the agent in it.

The names below are imported when they are first used: most machines have no agent.
"""

from typing import TYPE_CHECKING, Final

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.agent.client import Agent as Agent
    from vmm.agent.errors import AgentLostError as AgentLostError
    from vmm.agent.errors import AgentTimeoutError as AgentTimeoutError
    from vmm.agent.errors import CommandFailed as CommandFailed
    from vmm.agent.errors import CommandTimeoutError as CommandTimeoutError
    from vmm.agent.errors import GuestFileNotFoundError as GuestFileNotFoundError
    from vmm.agent.errors import GuestOSError as GuestOSError
    from vmm.agent.errors import GuestPermissionError as GuestPermissionError
    from vmm.agent.errors import OutputLimitError as OutputLimitError
    from vmm.agent.job import Output as Output
    from vmm.agent.link import Channel as Channel
    from vmm.agent.process import Process as Process
    from vmm.agent.process import Result as Result
    from vmm.agent.protocol import ProtocolError as ProtocolError
    from vmm.agent.protocol import Ready as Ready
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "client": "Agent",
            "errors": "AgentLostError AgentTimeoutError CommandFailed CommandTimeoutError"
            " GuestFileNotFoundError GuestOSError GuestPermissionError OutputLimitError",
            "job": "Output",
            "link": "Channel",
            "process": "Process Result",
            "protocol": "ProtocolError Ready",
        },
        "PORT_NAME",
    )

PORT_NAME: Final = "vmm.agent"
"""The name of the virtio console port between the agent and the host."""
