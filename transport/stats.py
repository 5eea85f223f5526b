"""The counts of a transport, for tests that assert exact numbers and for the end-of-run report."""

from virtio.named_tuple import NamedTuple


class TransportStats(NamedTuple):
    """Counts since the transport was made.

    ``kicks`` are the driver's notifications, ``interrupts`` used buffer notifications,
    ``config_changes`` configuration change notifications, ``completions`` chains handed back,
    ``bytes_read`` how much these chains offered the device to read, ``bytes_written`` how much the
    device wrote to them.
    """

    kicks: int
    interrupts: int
    completions: int
    bytes_read: int
    bytes_written: int
    config_changes: int
