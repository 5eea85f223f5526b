"""An archive of the modules that a machine's devices need, which our init loads before all else.

It goes before whatever else the guest has as initial RAM disk: Linux unpacks one archive after the
other into the same root. All of it is in a folder of its own, as ``/lib`` is a link in many
initrds and would be hidden by a folder. An init of somebody else's finds the modules there, and in
``order`` the order in which they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from virtio.errors import ConfigurationError
from virtio.log import Logger
from vmm.drivers import Driver
from vmm.image.initramfs import Initramfs
from vmm.image.kernels import GuestKernel
from vmm.image.module_tree import Module, ModuleTree

logger = Logger(__name__)

FOLDER = "/vmm-modules"
ORDER = "order"


def modules_for(kernel: GuestKernel, drivers: Iterable[Driver]) -> bytes:
    """Return the archive with the modules of ``kernel`` for ``drivers``; nothing for none.

    Raises ``ConfigurationError`` when the kernel has no driver that the machine must have, or when
    a module is damaged or was built for another kernel.
    """
    tree = kernel.modules
    modules = tree.load_order(_names(kernel, tree, drivers))
    for one in modules:
        _check_release(kernel, tree, one)
    return _archive(modules) if modules else b""


def _names(kernel: GuestKernel, tree: ModuleTree, drivers: Iterable[Driver]) -> list[str]:
    """Return the names of the drivers that are modules; the others are built in, or missing."""
    names = []
    for one in drivers:
        fault = kernel.fault(one)
        if fault and one.required:
            raise ConfigurationError(f"{kernel.name}: {fault}")
        if fault:
            logger.info("%s: %s", kernel.name, fault)
        elif one.module in tree:
            names.append(one.module)
    return names


def _check_release(kernel: GuestKernel, tree: ModuleTree, module: Module) -> None:
    if kernel.release and module.info.release != kernel.release:
        raise ConfigurationError(
            f"{kernel.name}: is {kernel.release}, and the module {module.name} in {tree.folder} is"
            f" for {module.info.release or 'no release that it tells'}: the kernel would refuse it;"
            " build or install both together"
        )


def _archive(modules: Iterable[Module]) -> bytes:
    image = Initramfs()
    files = {f"{one.name}.ko": one.data for one in modules}
    for name, data in files.items():
        image.add_file(f"{FOLDER}/{name}", data)
    image.add_file(f"{FOLDER}/{ORDER}", "".join(f"{name}\n" for name in files))
    return image.to_bytes()
