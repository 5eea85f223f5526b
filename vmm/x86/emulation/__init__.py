"""Emulates instructions that KVM's emulator lacks, on hosts without hardware virtualization.

:class:`Emulator` is the part that a run loop calls; ``syscall.py`` explains system calls there.
"""

from vmm.x86.emulation.cpu import Cpu
from vmm.x86.emulation.emulator import Emulator

__all__ = ["Cpu", "Emulator"]
