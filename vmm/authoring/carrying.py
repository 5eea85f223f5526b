"""What a device hands on to the one that takes its place: what happened to it, and no more.

The state of a device holds what its driver and its life made of it, and also what its author wrote:
the default of a configuration field is there as much as one that was assigned. Who saves the file
with another default wants that. So what the old one still has as it had it in the beginning is left
to the new one.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transport.core import VirtioTransport
    from virtio.device.lifecycle import VirtioDevice

State = dict[str, Any]


def state_of(device: VirtioDevice) -> State:
    """Return the state of a device, of which nothing changes with it any more."""
    return copy.deepcopy(device.state())


def carried(now: State, at_first: State, fresh: State) -> State:
    """Return the state ``fresh`` of a new device, with what changed in that of the old one.

    Parts that the new one does not know are left out; configuration fields are looked at one by
    one.

    >>> at_first = {"rolls": 0, "sides": 6}
    >>> carried({"rolls": 9, "sides": 6, "gone": 1}, at_first, {"rolls": 0, "sides": 8})
    {'rolls': 9, 'sides': 8}
    """
    found = dict(fresh)
    for name, value in now.items():
        if name not in fresh or (name in at_first and at_first[name] == value):
            continue
        if name == "config" and isinstance(fresh[name], dict):
            value = carried(value, at_first.get(name, {}), fresh[name])
        found[name] = value
    return found


def misfit(transport: VirtioTransport, new: VirtioDevice) -> str:
    """Return why ``new`` cannot go on where the device of ``transport`` is; empty if it can."""
    old = transport.device
    if new.device_id != old.device_id:
        return f"it now has the device_id {new.device_id} in place of {old.device_id}"
    if len(new.queue_max_sizes) != len(transport.queue_registers):
        return (
            f"it now has {len(new.queue_max_sizes)} queues in place of"
            f" {len(transport.queue_registers)}"
        )
    if transport.features and not new.features_acceptable(transport.features):
        return (
            f"it does not offer the features any more that its driver took: {transport.features:#x}"
        )
    return ""
