"""How much of a sandbox somebody wants."""

import os
from typing import Final, Literal, get_args

from virtio.errors import ConfigurationError, Error

SandboxMode = Literal["auto", "require", "off", "log"]
MODES: Final[tuple[SandboxMode, ...]] = get_args(SandboxMode)
VARIABLE: Final = "PYVMM_SANDBOX"


class SandboxUnavailable(Error):
    """This host, or this installation, has not all that the sandbox is made of."""


def check_mode(mode: str) -> None:
    """Raise :class:`ConfigurationError` for what is no mode."""
    if mode not in MODES:
        raise ConfigurationError(f"sandbox {mode!r}: must be one of {', '.join(MODES)}")


def usual_mode(otherwise: SandboxMode = "auto") -> SandboxMode:
    """Return the mode of a command that is not told one: what ``VARIABLE`` says, if it is set."""
    mode = os.environ.get(VARIABLE) or otherwise
    check_mode(mode)
    return mode  # type: ignore[return-value]
