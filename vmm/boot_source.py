"""The kernel, initrd and command line of a machine: its configuration's, or the default guest's.

The command line's defaults suit any Linux; the platform adds those that a host without hardware
virtualization needs.
"""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.kernel_choice import is_stock
from vmm.share.config import mount_word
from vmm.x86 import BootSource, default_cmdline

# These leave out work that the default guest can do without, so that it starts faster.
_DEFAULT_GUEST_CMDLINE: Final = "quiet retain_initrd rootfstype=ramfs percpu_alloc=page"
_STOCK_GUEST_CMDLINE: Final = "quiet"

_TERMINALS: Final = {"serial": "ttyS0", "virtio": "hvc0"}
_INIT: Final = "/init"
_MAX_INIT_ARGUMENTS: Final = 32  # CONFIG_INIT_ENV_ARG_LIMIT, past which Linux panics


def boot_source(config: MachineConfig) -> BootSource:
    """Return the boot source of ``config``; builds the default guest when it is not cached."""
    config = config.settled()
    image, modules, kernels_words, check = _kernel(config)
    initrd, init_arguments = config.initrd, config.init_arguments
    words = []
    if config.default_cmdline:
        words.append(default_cmdline(_TERMINALS[config.console], pci=config.uses_pci))
        words.append(kernels_words)
    if initrd is None and config.agent != "init" and config.has_our_init:
        initrd, init_arguments = _default_initrd(init_arguments), ()
    if config.agent != "none":
        initrd, agent_words = _with_agent(config, initrd)
        words.append(agent_words)
    if config.shares and (config.agent == "init" or config.has_our_init):
        words.append(mount_word(config.shares))
    if modules:
        initrd = modules + _content(initrd, config)
    own = [config.cmdline, *(["--", *_init_words(init_arguments)] if init_arguments else [])]
    words += own
    # Our own guest's kernel knows no ACPI, so nothing is spent on tables for it.
    acpi = config.acpi and config.kernel is not None
    cmdline, own_cmdline = (" ".join(filter(None, one)) for one in (words, own))
    return BootSource(image, initrd, cmdline, config.boot, acpi, own_cmdline, check)


def _kernel(config: MachineConfig) -> tuple[Path, bytes, str, Callable[[str], None] | None]:
    """Return the image of the kernel, an archive of the modules that it needs, and its words.

    The last one is to be called with the configuration that the kernel may hold in itself.
    """
    kernel = config.kernel
    if kernel is None:
        from vmm.image import default_kernel

        return (
            default_kernel(
                cpus=config.cpus, pci=config.uses_pci, debug=config.debug_kernel
            ).vmlinux,
            b"",
            _DEFAULT_GUEST_CMDLINE,
            None,
        )
    from vmm.drivers import drivers

    if isinstance(kernel, Path) and not is_stock(kernel):
        return kernel, b"", "", _checked(kernel, config)
    from vmm.image.kernels import find_kernel
    from vmm.image.module_archive import modules_for

    found = find_kernel(kernel)
    words = _STOCK_GUEST_CMDLINE if config.initrd is None else ""
    return found.image, modules_for(found, drivers(config)), words, None


def _checked(kernel: Path, config: MachineConfig) -> Callable[[str], None] | None:
    """Refuse a file that certainly lacks a driver which the machine must have.

    Return what does the same with the configuration in the kernel itself, when none is beside it.
    """
    from vmm.drivers import drivers

    required = [one for one in drivers(config) if one.required]
    if not required:
        return None
    from vmm.image.kernel_options import check_file, check_options, parse_options

    modules = config.initrd is not None
    if check_file(kernel, required, modules=modules):
        return None
    return lambda text: check_options(
        f"kernel {kernel}", parse_options(text), required, modules=modules
    )


def _with_agent(config: MachineConfig, initrd: Path | bytes | None) -> tuple[Path | bytes, str]:
    """Return the initrd with our agent in it, and the words that start it there."""
    from vmm.image.agent import agent_initramfs, agent_words, with_agent

    if initrd is None:
        return agent_initramfs(busybox=True), agent_words()
    return with_agent(_content(initrd, config)), agent_words(
        _INIT if config.agent == "beside" else None
    )


def _init_words(arguments: tuple[str, ...]) -> list[str]:
    """Return arguments as words of a kernel command line, from which init gets them unchanged.

    Linux knows double quotes there, but no way to write one inside them (``next_arg()``).
    """
    if len(arguments) > _MAX_INIT_ARGUMENTS:
        raise ConfigurationError(
            f"{len(arguments)} arguments for init: Linux hands on {_MAX_INIT_ARGUMENTS} at most"
        )
    for one in arguments:
        if '"' in one or one == "--" or not all(" " <= character <= "~" for character in one):
            raise ConfigurationError(
                f"argument {one!r} for init: the kernel's command line, on which it would go,"
                " cannot hold it: no double quote, control character, or character beyond ASCII,"
                " and no second --"
            )
    return [f'"{one}"' if " " in one or not one else one for one in arguments]


def _content(initrd: Path | bytes | None, config: MachineConfig) -> bytes:
    """Return an initrd; a file that no guest of this size could hold is refused without a read."""
    if not isinstance(initrd, Path):
        return initrd or b""
    try:
        status = initrd.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ConfigurationError(f"initrd {initrd}: is {kind}, must be a file")
        if status.st_size > config.memory_bytes:
            raise ConfigurationError(
                f"initrd {initrd}: has {status.st_size} bytes, more than the"
                f" {config.memory_bytes} bytes of RAM of its machine"
            )
        return initrd.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"initrd {initrd}: cannot be opened: {error.strerror}") from None


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
