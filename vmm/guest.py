"""What a machine boots: the files of its configuration, or the default guest.

The command line's defaults suit any Linux; what a host without hardware virtualization needs on top
comes from the platform.
"""

from pathlib import Path
from typing import Final

from vmm.config import MachineConfig
from vmm.x86.boot import BootSource
from vmm.x86.platform import default_cmdline

# What the default guest's kernel and init can do without, as it makes them start faster.
_DEFAULT_GUEST_CMDLINE: Final = "quiet retain_initrd rootfstype=ramfs percpu_alloc=page"


def boot_source(config: MachineConfig) -> BootSource:
    """Return what ``config`` boots; the default guest is built first when it is not cached."""
    kernel, initrd, init_arguments = config.kernel, config.initrd, config.init_arguments
    words = [default_cmdline()] if config.default_cmdline else []
    if kernel is None:
        from vmm.image import default_kernel

        kernel = default_kernel().vmlinux
        if config.default_cmdline:
            words.append(_DEFAULT_GUEST_CMDLINE)
        if initrd is None:
            initrd, init_arguments = _default_initrd(init_arguments), ()
    words.append(config.cmdline)
    if init_arguments:
        words += ["--", *init_arguments]
    return BootSource(kernel, initrd, " ".join(filter(None, words)), config.boot)


def _default_initrd(command: tuple[str, ...]) -> Path | bytes:
    """Return our initramfs; a command goes into it as a script, so that it may be of any length.

    Linux gives init 32 words of its command line at most, and panics if there are more.
    """
    from vmm.image import default_initramfs

    if not command:
        return default_initramfs()
    import shlex

    from vmm.image.initramfs import RUN_SCRIPT, Initramfs

    script = Initramfs()
    script.add_file(RUN_SCRIPT, shlex.join(command) + "\n")
    return default_initramfs().read_bytes() + script.to_bytes()
