"""Accesses to the device's own configuration. VIRTIO 1.2 2.5, 3.1.1."""

from __future__ import annotations

from transport.status import status_names
from vmm.driver_check.case import Case
from vmm.trace.events import Access


def accessed(case: Case, event: Access) -> None:
    """Judge an access to a field."""
    field, register = case.fields.get(event.register), event.register
    if field is None:
        return
    if field.feature is not None:
        if case.transport.negotiation.offered & field.feature.mask:
            case.keeps("DRV-CFG-04")
        else:
            bit = field.feature.bit
            case.finds("config-not-offered", each=register, register=register, bit=bit)
    if not event.is_write:
        return
    if not field.writable:
        case.finds("config-read-only", each=register, register=register)
        return
    case.keeps("DRV-CFG-02")
    if not case.has_features and not field.early:
        case.finds("config-written-early", register=register, before=status_names(case.status))
    else:
        case.keeps("DRV-CFG-03")
