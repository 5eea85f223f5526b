"""A level-triggered interrupt line of a guest. KVM api.rst "KVM_IRQ_LINE"."""

from vmm.kvm.vm import Vm


class LevelLine:
    """The line of ``gsi``: it stays up, and interrupts again, until it is lowered."""

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm = vm
        self._gsi = gsi

    def raise_(self) -> None:
        """Have the line up."""
        self._vm.set_line(self._gsi, level=True)

    def lower(self) -> None:
        """Have the line down."""
        self._vm.set_line(self._gsi, level=False)
