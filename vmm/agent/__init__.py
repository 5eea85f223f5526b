"""Commands and files of a running guest, by the agent in it.

The names below are imported when they are first used: most machines have no agent.
"""

from typing import TYPE_CHECKING, Final

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.agent.answers import Ready as Ready
    from vmm.agent.client import Agent as Agent
    from vmm.agent.errors import AgentLostError as AgentLostError
    from vmm.agent.errors import AgentProtocolError as AgentProtocolError
    from vmm.agent.errors import AgentTimeoutError as AgentTimeoutError
    from vmm.agent.errors import CommandFailed as CommandFailed
    from vmm.agent.errors import CommandTimeoutError as CommandTimeoutError
    from vmm.agent.errors import GuestFileNotFoundError as GuestFileNotFoundError
    from vmm.agent.errors import GuestOSError as GuestOSError
    from vmm.agent.errors import GuestPermissionError as GuestPermissionError
    from vmm.agent.errors import OutputLimitError as OutputLimitError
    from vmm.agent.link import AgentPort as AgentPort
    from vmm.agent.output import Output as Output
    from vmm.agent.process import Process as Process
    from vmm.agent.process import Result as Result
    from vmm.agent.user import User as User
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "answers": "Ready",
            "client": "Agent",
            "errors": "AgentLostError AgentProtocolError AgentTimeoutError CommandFailed"
            " CommandTimeoutError GuestFileNotFoundError GuestOSError GuestPermissionError"
            " OutputLimitError",
            "link": "AgentPort",
            "output": "Output",
            "process": "Process Result",
            "user": "User",
        },
        "PORT_NAME",
    )

PORT_NAME: Final = "vmm.agent"
"""The name of the virtio console port between the agent and the host."""
