"""What a network device counts of the packets that passed, and of those that did not."""

from virtio.dataclass import dataclass


@dataclass(slots=True)
class NetCounters:
    """Counts since the device was made.

    Of the guest's packets: those ``sent``, those ``refused`` for what the driver made of them, and
    those that went ``nowhere`` because the cable was not plugged. Of the packets for the guest:
    those ``received``; those ``lost`` while the driver was not live; those that its filter kept
    away; those ``unfit``, being malformed, or too large for its MTU or buffers.
    """

    sent: int = 0
    refused: int = 0
    nowhere: int = 0
    received: int = 0
    lost: int = 0
    filtered: int = 0
    unfit: int = 0
