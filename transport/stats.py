"""What a transport counts, for tests that assert exact numbers and for the end-of-run report."""

from dataclasses import dataclass


@dataclass(slots=True)
class TransportStats:
    """Counts since the transport was made.

    ``kicks`` are the driver's notifications, ``interrupts`` used buffer notifications,
    ``config_changes`` configuration change notifications, ``completions`` chains handed back,
    ``bytes_read`` what those offered the device to read, ``bytes_written`` what it wrote.
    """

    kicks: int = 0
    interrupts: int = 0
    completions: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    config_changes: int = 0
