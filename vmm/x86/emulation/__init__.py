"""Instructions that KVM's emulator cannot execute, completed by us: hosts without virtualization.

:class:`Completer` is what a run loop needs. ``syscall.py`` tells how system calls work there.
"""

from vmm.x86.emulation.completer import Completer
from vmm.x86.emulation.cpu import Cpu

__all__ = ["Completer", "Cpu"]
