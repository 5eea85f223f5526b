"""What a machine boots: the files of its configuration, or the default guest.

The command line's defaults suit any Linux; what a host without hardware virtualization needs on top
comes from the platform.
"""

from vmm.config import MachineConfig
from vmm.x86.boot import BootSource
from vmm.x86.platform import default_cmdline


def boot_source(config: MachineConfig) -> BootSource:
    """Return what ``config`` boots; the default guest is built first when it is not cached."""
    kernel, initrd = config.kernel, config.initrd
    if kernel is None:
        from vmm.image import default_initramfs, default_kernel

        kernel = default_kernel().vmlinux
        initrd = initrd if initrd is not None else default_initramfs()
    parts = [default_cmdline()] if config.default_cmdline else []
    parts += [config.cmdline] if config.cmdline else []
    if config.init_arguments:
        import shlex

        parts += ["--", shlex.join(config.init_arguments)]
    return BootSource(kernel, initrd, " ".join(parts), config.boot)
