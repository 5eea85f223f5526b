"""Checks what drivers do against the rules of the specification: diagnoses, and a table of duties.

    doctor = DriverDoctor(machine.hardware)
    machine.start_trace().on_events(doctor.feed)

VIRTIO 1.2, the sections named "Driver Requirements".
"""

from vmm.driver_check.diagnosis import Diagnosis
from vmm.driver_check.doctor import DriverDoctor
from vmm.driver_check.duties import Duty, Mistake, load_duties
from vmm.driver_check.table import DutyTable, Verdict

__all__ = [
    "Diagnosis",
    "DriverDoctor",
    "Duty",
    "DutyTable",
    "Mistake",
    "Verdict",
    "load_duties",
]
