"""The options that say what machine to build, for every command that builds one."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from virtio import features
from virtio.errors import ConfigurationError
from vmm.config import AgentRole, ConsoleKind, IoThreads, MachineConfig, Transport, parse_size
from vmm.disk.disk import DiskConfig
from vmm.ending.ending import OnPanic
from vmm.image import Progress, ProgressLine, default_kernel, demo_disk
from vmm.kernel_choice import DEBUG, Kernel, is_stock, kernel_choice
from vmm.share.config import ShareConfig
from vmm.topology import parse_cpus
from vmm.x86 import BootProtocol, open_kvm

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Sequence

    from vmm.cli.quick_options import QuickOptions
    from vmm.config import DeviceConfig
    from vmm.net.config import NetConfig

MAX_TIMEOUT_SECONDS: Final = 1e7
DEFAULT_CID: Final = 3

# VIRTIO 1.4 "Reserved Feature Bits", those that a device here may offer.
RING_FEATURES: Final = {
    "indirect-desc": features.VIRTIO_RING_F_INDIRECT_DESC,
    "event-idx": features.VIRTIO_RING_F_EVENT_IDX,
    "packed": features.VIRTIO_F_RING_PACKED,
    "in-order": features.VIRTIO_F_IN_ORDER,
    "notification-data": features.VIRTIO_F_NOTIFICATION_DATA,
    "ring-reset": features.VIRTIO_F_RING_RESET,
}


def add_machine_arguments(parser: ArgumentParser | QuickOptions) -> None:
    """Add the options that say what machine to build."""
    _add_boot_arguments(parser.add_argument)
    _add_hardware_arguments(parser.add_argument)
    _add_service_arguments(parser.add_argument)


def _add_boot_arguments(add: Callable[..., object]) -> None:
    add(
        "--kernel",
        type=kernel_choice,
        metavar="KERNEL",
        help="a file (vmlinux or bzImage), a folder (a kernel's build tree), or a name: host,"
        " debian, debian:6.12, debian:6.12-generic (default: our own guest's), or debug, our own"
        " for debuggers",
    )
    add("--initrd", type=Path, metavar="FILE", help="initial RAM disk")
    add("--cmdline", default="", metavar="STR", help="added to the kernel command line")
    add("--no-default-cmdline", action="store_true", help="take --cmdline as it is")
    add("--boot", choices=get_args(BootProtocol), default="auto", help="how to enter the kernel")
    add(
        "--agent",
        choices=get_args(AgentRole),
        help="have our agent in the guest, as its first process or beside that (default: none, or"
        " init for a command in the default guest)",
    )


def _add_hardware_arguments(add: Callable[..., object]) -> None:
    add(
        "--acpi",
        action="store_true",
        default=True,
        help="tell a kernel of its machine by ACPI, too (default)",
    )
    add("--no-acpi", action="store_false", dest="acpi", help="no ACPI, only the MP table")
    add("--memory", default="128M", metavar="SIZE", help="guest RAM, such as 128M or 1G")
    add(
        "--cpus",
        default="1",
        metavar="N[,sockets=S][,cores=C][,threads=T]",
        help="virtual processors, by default the cores of one socket",
    )
    add(
        "--disk",
        action="append",
        default=[],
        metavar="FILE[,ro][,serial=S]",
        help="a raw or qcow2 image, a block device of the host, or an export of an NBD server"
        " (nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH, with on-error=fail|wait and"
        " timeout=SECONDS), as a virtio block device; may be repeated. More options: volatile,"
        " format=raw|qcow2, backing=FOLDER, limit=SIZE, lock=off to use what others use,"
        " block-size=N, queues=N, transport=mmio|pci; a comma in the name is doubled",
    )
    add("--no-disk", action="store_true", help="no disk, not even the default guest's")
    add(
        "--ring-features",
        metavar="NAMES",
        help=f"what the devices' rings can do: {', '.join(RING_FEATURES)}, with commas between"
        " them, or none (default: indirect-desc,event-idx,ring-reset)",
    )
    add(
        "--port",
        action="append",
        default=[],
        metavar="NAME[=FILE]",
        help="a virtio console port of that name; what the guest writes to it goes to FILE; may be"
        " repeated",
    )
    add(
        "--net",
        action="append",
        default=[],
        metavar="KIND[,OPTION...]",
        help="a virtio network card, on the host's network (user, by passt, with"
        " hostfwd=tcp:8080:80), on a tap (tap=NAME or tap=fd:N, with queues=N) or on a stream of"
        " frames as QEMU has them (socket=PATH, HOST:PORT or fd:N); may be repeated. More options:"
        " mac=, mtu=, pcap=FILE",
    )
    add(
        "--vsock",
        metavar="PATH[,cid=N]",
        help="sockets between host and guest: who connects to PATH and says CONNECT 1234 speaks"
        " with port 1234 of the guest, and who listens at PATH_1234 with those of the guest that"
        " connect to port 1234 of CID 2",
    )
    add(
        "--balloon",
        metavar="SIZE|off",
        help="a memory balloon: the guest gives back to the host what it frees, and SIZE of its"
        " memory beside that, such as 64M, or 0 (default: off, and 0 for a snapshot, which is as"
        " small as what the guest uses then)",
    )
    add(
        "--share",
        action="append",
        default=[],
        metavar="SRC:DST[,ro|rw][,cache=MODE]",
        help="a directory of the host, mounted in the guest; may be repeated. Read-only unless rw;"
        " cache is auto, always or none. More options: locks=guest|host, tag=NAME; a comma in the"
        " names is doubled",
    )
    add(
        "--root",
        metavar="DIR[,cache=MODE]",
        help="have a directory of the host, such as /, as the guest's root; what the guest writes"
        " there stays in its memory. A command then runs as this user, in this folder",
    )
    add("--rng", action="store_true", default=True, help="a virtio entropy device (default)")
    add("--no-rng", action="store_false", dest="rng", help="no virtio entropy device")
    add(
        "--console",
        choices=get_args(ConsoleKind),
        default="serial",
        help="where the guest's console is: ttyS0 or hvc0",
    )
    add(
        "--transport",
        choices=get_args(Transport),
        help="how the guest finds its virtio devices; a disk may say otherwise (transport=)"
        " (default: pci for a kernel by name or in a folder, else mmio)",
    )
    for name in ("rng", "console"):
        add(
            f"--{name}-transport",
            choices=get_args(Transport),
            help=f"how it finds the virtio {name}, if otherwise than the rest",
        )


def _add_service_arguments(add: Callable[..., object]) -> None:
    add(
        "--io-threads",
        choices=get_args(IoThreads),
        default="devices",
        help="what is served by a thread of its own",
    )
    add(
        "--poll",
        type=int,
        metavar="MICROSECONDS",
        help="how long such a thread waits on the processor before it sleeps (default: 50, or 0"
        " on one processor)",
    )
    add(
        "--on-panic",
        choices=get_args(OnPanic),
        default="auto",
        help="whether a guest ends at once when pvpanic tells of its panic, or goes on to its own"
        " reset or halt (default: only one with a crash kernel goes on)",
    )
    add("--timeout", type=float, metavar="SECONDS", help="end a guest that has not ended by then")


def check_timeout(options: Namespace) -> None:
    """Raise for a ``--timeout`` that no clock can keep: none, less than none, ``inf``, ``nan``."""
    if options.timeout is not None and not 0 < options.timeout <= MAX_TIMEOUT_SECONDS:
        raise ConfigurationError(
            f"--timeout {options.timeout:g}: must be above 0 and at most"
            f" {MAX_TIMEOUT_SECONDS:g} seconds"
        )


def machine_config(options: Namespace, progress: Progress) -> MachineConfig:
    """Turn the options of :func:`add_machine_arguments` into a configuration.

    The default guest gets its demonstration disk when no other disk is given.
    """
    check_timeout(options)
    if options.no_disk and options.disk:
        raise ConfigurationError("--no-disk: with --disk there is one; take either away")

    debug = options.kernel == DEBUG
    chosen = None if debug else options.kernel
    cpus, topology = parse_cpus(options.cpus)
    shares = _shares(options)
    devices = own_devices(getattr(options, "device", ()))

    def made(kernel: Kernel | None, disks: Sequence[DiskConfig]) -> MachineConfig:
        return MachineConfig(
            kernel=kernel,
            debug_kernel=debug,
            initrd=options.initrd,
            cmdline=options.cmdline,
            default_cmdline=not options.no_default_cmdline,
            init_arguments=tuple(options.init_arguments),
            boot=options.boot,
            acpi=options.acpi,
            memory_bytes=parse_size(options.memory),
            cpus=cpus,
            cpu_topology=topology,
            disks=tuple(disks),
            shares=shares,
            rng=options.rng,
            devices=devices,
            console=options.console,
            agent=options.agent or "none",
            io_threads=options.io_threads,
            transport=options.transport,
            rng_transport=options.rng_transport,
            console_transport=options.console_transport,
            on_panic=options.on_panic,
            ports=tuple(name for name, _ in map(split_port, options.port)),
            nets=nets(options),
            vsock=None if options.vsock is None else split_vsock(options.vsock)[1] or DEFAULT_CID,
            balloon=_balloon(options.balloon),
            ring_features=ring_features(options.ring_features),
            **({} if options.poll is None else {"poll_us": options.poll}),
        )

    config = made(chosen, [*map(DiskConfig.parse, options.disk)])
    if chosen is not None:
        return config
    kernel = None
    if not debug and _may_be_stock(options):
        kernel = chosen_kernel(progress, cpus=cpus, pci=config.settled().uses_pci)
    if config.disks or options.no_disk:
        return made(kernel, config.disks)
    return made(kernel, [DiskConfig(str(demo_disk(progress)), volatile=True)])


def _may_be_stock(options: Namespace) -> bool:
    """Whether a kernel with modules does as well: ours or our agent must load them, by ACPI."""
    is_ours = options.initrd is None or options.agent in ("init", "beside")
    return is_ours and options.acpi and not options.no_default_cmdline


def chosen_kernel(progress: Progress, *, cpus: int, pci: bool = False) -> str | None:
    """Return the kernel of a machine for which nobody chose one, and say so if it is not ours."""
    from vmm.image.usual_kernel import describe, usual_kernel

    name = usual_kernel(progress, cpus=cpus, pci=pci)
    if name is not None and sys.stderr.isatty():
        from vmm.image.kernels import find_kernel

        print(f"vmm: {describe(find_kernel(name))}", file=sys.stderr)
    return name


def _shares(options: Namespace) -> tuple[ShareConfig, ...]:
    """Return the shares, of which the root is the first."""
    root = [] if options.root is None else [ShareConfig.root(options.root)]
    return (*root, *map(ShareConfig.parse, options.share))


def _balloon(text: str | None) -> int | None:
    """Return the size of ``--balloon``."""
    if text is None:
        return None
    from vmm.balloon.size import parse_balloon

    return parse_balloon(text)


def ring_features(names: str | None) -> int | None:
    """Return the mask of the ring features that ``--ring-features`` names.

    >>> hex(ring_features("event-idx,packed"))
    '0x420000000'
    """
    if names is None:
        return None
    chosen = [] if names == "none" else names.split(",")
    for one in chosen:
        if one not in RING_FEATURES:
            allowed = ", ".join(RING_FEATURES)
            raise ConfigurationError(f"--ring-features {one!r}: must be among {allowed}, or none")
    return sum(1 << RING_FEATURES[one] for one in set(chosen))


def nets(options: Namespace) -> tuple[NetConfig, ...]:
    """Return the networks of ``--net``."""
    if not options.net:
        return ()
    from vmm.net.options import parse_net

    return tuple(map(parse_net, options.net))


def own_devices(texts: Sequence[str]) -> tuple[DeviceConfig, ...]:
    """Return the makers of the devices of ``--device``, whose classes are loaded."""
    if not texts:
        return ()
    from vmm.authoring.device_file import loaded_device

    return tuple(map(loaded_device, texts))


def split_port(text: str) -> tuple[str, str]:
    """Return the name and the file of ``--port NAME[=FILE]``; no file is an empty one.

    >>> split_port("log=out.txt"), split_port("log")
    (('log', 'out.txt'), ('log', ''))
    """
    name, equals, file = text.partition("=")
    if not name or (equals and not file):
        raise ConfigurationError(f"--port {text!r}: needs NAME or NAME=FILE")
    return name, file


def split_vsock(text: str) -> tuple[str, int]:
    """Return the path and the guest's CID of ``--vsock PATH[,cid=N]``; 0 where none is named.

    >>> split_vsock("v.sock"), split_vsock("v.sock,cid=9")
    (('v.sock', 0), ('v.sock', 9))
    """
    path, comma, cid = text.rpartition(",cid=")
    if not comma:
        path, cid = text, "0"
    if not path or not cid.isdecimal() or (comma and int(cid) < DEFAULT_CID):
        raise ConfigurationError(
            f"--vsock {text!r}: needs PATH or PATH,cid=N with N from {DEFAULT_CID} on"
        )
    return path, int(cid)


def prepared_machine_config(options: Namespace) -> MachineConfig:
    """As :func:`machine_config`; builds the default guest that is not cached, and says so.

    On a host that cannot run it nothing is built, or installed, first.
    """
    open_kvm().close()
    with closing(ProgressLine(sys.stderr)) as progress:
        config = machine_config(options, progress)
        if config.kernel is None:
            default_kernel(
                progress, cpus=config.cpus, pci=config.uses_pci, debug=config.debug_kernel
            )
        elif is_stock(config.kernel):
            from vmm.image.kernels import find_kernel

            find_kernel(config.kernel, progress)
    return config
