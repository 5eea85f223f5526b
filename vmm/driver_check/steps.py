"""The steps of the initialization: the status, and the features.

VIRTIO 1.2 3.1.1 "Driver Requirements: Device Initialization", 2.1.1, 2.2.1.
"""

from __future__ import annotations

from typing import Any, Final

from transport.status import (
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET,
    status_names,
)
from virtio.device.declaration import Device
from virtio.device.lifecycle import VirtioDevice
from virtio.features import VIRTIO_F_VERSION_1, mask
from vmm.driver_check.case import Case
from vmm.trace.events import Features
from vmm.trace.names import feature_names

IDENTITY: Final = ("MagicValue", "Version", "DeviceID")
DRIVERS_BITS: Final = (
    VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_FAILED
)
FEATURE_WORDS: Final = 4


def status_written(case: Case, value: int) -> None:
    """Judge a write to the status; ``case.status`` is that before."""
    if value == 0:
        case.begin_life()
        return
    before, life = case.status, case.life
    _judge_bits(case, before, value)
    if before & VIRTIO_CONFIG_S_FAILED:
        case.finds("continued-after-failed", names=status_names(value))
        return
    if life.complete:
        _judge_beginning(case, value)
    new = value & ~before
    told: dict[str, Any] = {
        "before": status_names(before),
        "names": status_names(value & DRIVERS_BITS),
    }
    if new & VIRTIO_CONFIG_S_DRIVER:
        if (before | value) & VIRTIO_CONFIG_S_ACKNOWLEDGE:
            case.keeps("DRV-INI-03")
        else:
            case.finds("driver-without-acknowledge", **told)
    if new & VIRTIO_CONFIG_S_FEATURES_OK:
        _judge_features_ok(case, before | value, told)
    if new & VIRTIO_CONFIG_S_DRIVER_OK:
        _judge_driver_ok(case, value, told)


def _judge_bits(case: Case, before: int, value: int) -> None:
    foreign = value & ~(DRIVERS_BITS | before & VIRTIO_CONFIG_S_NEEDS_RESET)
    if foreign:
        case.finds("status-bit-foreign", value=value, foreign=foreign)
    else:
        case.keeps("DRV-STA-02")
    if cleared := before & DRIVERS_BITS & ~value:
        case.finds(
            "status-bit-cleared",
            cleared=status_names(cleared),
            before=status_names(before),
            names=status_names(value),
        )
    elif before:
        case.keeps("DRV-STA-01")


def _judge_beginning(case: Case, value: int) -> None:
    """Judge what has to come before the first bit of the status."""
    life, names = case.life, status_names(value)
    if not life.was_reset:
        case.finds("never-reset", names=names)
    elif case.status == 0:
        case.keeps("DRV-INI-02")
    if case.kind == "pci" and life.was_reset:
        if life.reset_seen:
            case.keeps("DRV-RST-01")
        else:
            case.finds("reset-not-waited", names=names)
            life.reset_seen = True
    if case.kind == "mmio" and case.from_birth:
        missing = [one for one in IDENTITY if one not in case.identified]
        if missing:
            case.finds("not-identified", names=names, missing=_listed(missing))
        else:
            case.keeps("DRV-INI-01")


def _listed(words: list[str]) -> str:
    """Return words as people list them: ``one, two and three``."""
    *first, last = words or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _judge_features_ok(case: Case, status: int, told: dict[str, Any]) -> None:
    life = case.life
    life.status_read = False
    if not status & VIRTIO_CONFIG_S_DRIVER:
        case.finds("features-ok-before-driver", **told)
        return
    if not life.complete:
        return
    if "DeviceFeatures" in life.read:
        case.keeps("DRV-FEA-04")
    else:
        case.finds("features-unread", register=case.called("DeviceFeatures"))
    if "DriverFeatures" in life.written:
        case.keeps("DRV-INI-04")
    else:
        case.finds("features-never-written", register=case.called("DriverFeatures"))


def _judge_driver_ok(case: Case, value: int, told: dict[str, Any]) -> None:
    life = case.life
    if case.has_features or life.refused:
        going_on(case, "DRIVER_OK")
    elif value & VIRTIO_CONFIG_S_FEATURES_OK:
        case.finds("features-ok-not-read-back", step="DRIVER_OK")
    else:
        case.finds("driver-ok-without-features-ok", **told)
    for register, vector in life.unread_vectors.items():
        case.finds("vector-not-read-back", register=register, value=vector)
    if case.has_features:
        case.keeps("DRV-INI-08")
        case.keeps("DRV-FEA-05")


def going_on(case: Case, step: str) -> None:
    """Judge a step that comes after FEATURES_OK: did the driver look whether that stayed?"""
    if case.life.refused:
        case.finds("refused-features-ignored", step=step)
    elif not case.life.status_read:
        case.finds("features-ok-not-read-back", step=step)
    elif case.has_features:
        case.keeps("DRV-INI-05")
        case.keeps("DRV-INI-06")


def features_written(case: Case, value: int) -> None:
    """Judge a write of a word of the driver's features."""
    life, register = case.life, case.called("DriverFeatures")
    life.written.add("DriverFeatures")
    if case.has_features:
        case.finds("features-changed-late", register=register, value=value)
        return
    if case.reached(VIRTIO_CONFIG_S_DRIVER):
        case.keeps("DRV-FEA-06")
    else:
        case.finds("features-before-driver", register=register, before=status_names(case.status))
    word_selected(case, "DriverFeatures")
    if value and life.selected.get("DriverFeaturesSel", 0) >= FEATURE_WORDS:
        life.foreign_word = True


def word_selected(case: Case, register: str) -> None:
    """Judge an access to a word of features: was one selected?"""
    if case.kind != "mmio" or not case.life.complete:
        return
    if f"{register}Sel" in case.life.selected:
        case.keeps("DRV-FEA-07")
    else:
        case.finds("feature-word-not-selected", register=register, selector=f"{register}Sel")


def features_settled(case: Case, event: Features) -> None:
    """Judge the set of features that the driver chose."""
    life, device = case.life, case.transport.device
    life.refused = not event.taken
    if event.taken:
        life.accepted = event.accepted
        for duty in ("DRV-FEA-01", "DRV-FEA-02", "DRV-FEA-03"):
            case.keeps(duty)
    elif foreign := event.accepted & ~event.offered:
        case.finds("feature-not-offered", bits=_bits(device, foreign), offered=event.offered)
    elif life.foreign_word:
        case.finds("feature-not-offered", bits="bits past 127", offered=event.offered)
    elif not event.accepted & mask(VIRTIO_F_VERSION_1):
        if "DriverFeatures" in life.written or not life.complete:  # else that is the reason
            register = case.called("DriverFeatures")
            case.finds("version-1-missing", accepted=event.accepted, register=register)
    else:
        _judge_refusal(case, device, event)


def _judge_refusal(case: Case, device: VirtioDevice, event: Features) -> None:
    features = device.features if isinstance(device, Device) else ()
    for one in features:
        if event.accepted & one.mask and not one.fits(event.accepted):
            every = [need for need in one.requires if not event.accepted & need.mask]
            needed = _listed([_bits(device, need.mask) for need in every])
            some = " or ".join(_bits(device, need.mask) for need in one.requires_any)
            bits = _bits(device, one.mask)
            case.finds("feature-without-prerequisite", bits=bits, needed=needed or some)
            return
    case.finds("features-refused", accepted=event.accepted, offered=event.offered)


def _bits(device: VirtioDevice, features: int) -> str:
    """Return bits with their names, such as ``EVENT_IDX (bit 29)``."""
    told = []
    for bit in range(128):
        if features >> bit & 1:
            name = feature_names(device, 1 << bit)
            told.append(f"bit {bit}" if name == str(bit) else f"{name} (bit {bit})")
    return ", ".join(told)
