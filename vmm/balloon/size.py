"""The size of a memory balloon: what may be asked of a guest."""

from virtio.errors import ConfigurationError
from vmm.host.size import parse_size

PAGE_BYTES = 4096
"""The unit in which a balloon grows. VIRTIO 1.4 "Traditional Memory Balloon Device"."""

OFF = "off"


def check_balloon(size_bytes: int, memory_bytes: int) -> None:
    """Raise :class:`ConfigurationError` for a balloon that a machine cannot have.

    >>> check_balloon(6000, 1 << 20)
    Traceback (most recent call last):
    virtio.errors.ConfigurationError: balloon of 6000 bytes: must be a multiple of 4096 from 0 to \
1048576, the machine's memory
    """
    if not 0 <= size_bytes <= memory_bytes or size_bytes % PAGE_BYTES:
        raise ConfigurationError(
            f"balloon of {size_bytes} bytes: must be a multiple of {PAGE_BYTES} from 0 to"
            f" {memory_bytes}, the machine's memory"
        )


def parse_balloon(text: str) -> int | None:
    """Return the size of ``--balloon SIZE|off``, in bytes; None for no balloon.

    >>> parse_balloon("64M"), parse_balloon("0"), parse_balloon("off")
    (67108864, 0, None)
    """
    return None if text == OFF else parse_size(text)
