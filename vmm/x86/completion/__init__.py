"""Instructions that KVM's emulator cannot execute, completed by us: hosts without virtualization.

:class:`Completer` is what a run loop needs. ``syscall.py`` tells how system calls work there.
"""

from vmm.x86.completion.completer import Completer
from vmm.x86.completion.cpu import Cpu

__all__ = ["Completer", "Cpu"]
