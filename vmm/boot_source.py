"""The kernel, initrd and command line of a machine: its configuration's, or the default guest's.

The command line's defaults suit any Linux; the platform adds those that a host without hardware
virtualization needs.
"""

from pathlib import Path
from typing import Final

from vmm.config import MachineConfig
from vmm.x86 import BootSource, default_cmdline

# These leave out work that the default guest can do without, so that it starts faster.
_DEFAULT_GUEST_CMDLINE: Final = "quiet retain_initrd rootfstype=ramfs percpu_alloc=page"


_TERMINALS: Final = {"serial": "ttyS0", "virtio": "hvc0"}
_INIT: Final = "/init"


def boot_source(config: MachineConfig) -> BootSource:
    """Return the boot source of ``config``; builds the default guest when it is not cached."""
    kernel, initrd, init_arguments = config.kernel, config.initrd, config.init_arguments
    words = [default_cmdline(_TERMINALS[config.console])] if config.default_cmdline else []
    if kernel is None:
        from vmm.image import default_kernel

        kernel = default_kernel(cpus=config.cpus).vmlinux
        if config.default_cmdline:
            words.append(_DEFAULT_GUEST_CMDLINE)
        if initrd is None and config.agent != "init":
            initrd, init_arguments = _default_initrd(init_arguments), ()
    if config.agent != "none":
        initrd, agent_words = _with_agent(config, initrd)
        words.append(agent_words)
    words.append(config.cmdline)
    if init_arguments:
        words += ["--", *init_arguments]
    return BootSource(kernel, initrd, " ".join(filter(None, words)), config.boot)


def _with_agent(config: MachineConfig, initrd: Path | bytes | None) -> tuple[Path | bytes, str]:
    """Return the initrd with our agent in it, and the words that start it there."""
    from vmm.image.agent import agent_initramfs, agent_words, with_agent

    if initrd is None:
        return agent_initramfs(busybox=True), agent_words()
    content = initrd.read_bytes() if isinstance(initrd, Path) else initrd
    return with_agent(content), agent_words(_INIT if config.agent == "beside" else None)


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
