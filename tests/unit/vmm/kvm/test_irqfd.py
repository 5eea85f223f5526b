"""The line of an irqfd: edges counted by an eventfd, and no descriptor left behind."""

import os
from pathlib import Path
from typing import cast

import pytest

from vmm.kvm.irqfd import IrqfdLine
from vmm.kvm.vm import Vm


class FakeVm:
    """Remembers which eventfd it was given for which GSI, or refuses."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.attached: list[tuple[int, int]] = []

    def attach_irqfd(self, fd: int, gsi: int) -> None:
        self.attached.append((fd, gsi))
        if self.refusal is not None:
            raise self.refusal


def test_each_raise_is_an_edge_and_lowering_is_none() -> None:
    vm = FakeVm()
    line = IrqfdLine(cast(Vm, vm), 5)
    try:
        line.raise_()
        line.raise_()
        line.lower()

        assert vm.attached == [(line.fd, 5)]
        assert os.eventfd_read(line.fd) == 2
    finally:
        line.close()


def test_a_line_that_kvm_refuses_leaves_no_descriptor_open() -> None:
    vm = FakeVm(OSError("no such GSI"))

    with pytest.raises(OSError, match="no such GSI"):
        IrqfdLine(cast(Vm, vm), 999)

    assert not Path(f"/proc/self/fd/{vm.attached[0][0]}").exists()
