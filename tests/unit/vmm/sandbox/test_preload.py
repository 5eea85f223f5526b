"""What a machine imports late is there before the sandbox hides it."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# What a command has imported when it enters the sandbox: vmm run, for a command and a terminal.
RUN = """
import vmm.cli.run, vmm.cli.session, vmm.snapshot.snapshot, vmm.cli.user_terminal, vmm.cli.command
from vmm.sandbox.preload import preload
preload("vmm.console.input", "vmm.console.filter", "vmm.stats")
"""
TRACED = """
import vmm.cli.run, vmm.cli.session, vmm.cli.trace_options, vmm.cli.user_terminal, vmm.cli.command
import vmm.snapshot.snapshot
from vmm.sandbox.preload import preload
preload("vmm.console.input", "vmm.console.filter", "vmm.stats", *vmm.cli.trace_options.LATE)
import virtio.native.records
"""
EXPLAINED = """
import vmm.cli.run, vmm.cli.session, vmm.cli.explanation, vmm.cli.user_terminal, vmm.cli.command
import vmm.snapshot.snapshot
from vmm.sandbox.preload import preload
preload("vmm.console.input", "vmm.console.filter", "vmm.stats", *vmm.cli.explanation.LATE)
import virtio.native.records
"""
SNAPSHOT = """
import vmm.cli.snapshot
from vmm.sandbox.preload import preload
preload(*vmm.cli.snapshot._LATE)
"""
TELL = """
import sys
for name, module in sys.modules.items():
    print(name, getattr(module, "__file__", None) or "-")
"""
OURS = ("virtio", "transport", "vmm")

# Imports in functions that are called before a machine is confined, by the module that makes them.
BEFORE = {
    "vmm.boot_source": {
        *("vmm.image.agent", "vmm.image.initramfs"),
        *("vmm.image.kernel_options", "vmm.image.kernels", "vmm.image.module_archive"),
    },
    "vmm.cli": {"vmm.cli.parser", "vmm.cli.quick_options"},
    "vmm.cli.machine_options": {
        "vmm.authoring.device_file",
        *("vmm.image.kernels", "vmm.image.usual_kernel", "vmm.net.options"),
        "vmm.balloon.size",
    },
    "vmm.cli.run": {
        *("vmm.cli.debugger", "vmm.cli.explanation", "vmm.cli.jailed", "vmm.cli.keeper"),
        *("vmm.cli.reload_option", "vmm.cli.trace_options"),
        "vmm.net.guest",
    },
    "vmm.cli.session": {
        *("vmm.cli.caller", "vmm.cli.debugger", "vmm.cli.guest_sockets"),
        "vmm.cli.machine_options",
        *("vmm.cli.port_files", "vmm.cli.reload_option", "vmm.share.limits"),
    },
    "vmm.cli.snapshot": {"vmm.cli.jailed", "vmm.share.limits"},
    "vmm.config": {"vmm.balloon.size"},
    "vmm.devices": {
        *("virtio.balloon", "vmm.balloon.size"),
        *("virtio.console", "virtio.net.device", "virtio.vsock", "vmm.net.opening"),
        "vmm.share.shares",
    },
    "virtio.net.device": {"virtio.net.native_pair"},
    "vmm.disk.lock": {"vmm.disk.holder"},
    "vmm.disk.opening": {
        *("vmm.disk.block_device", "vmm.disk.nbd.disk", "vmm.disk.nbd.place"),
        *("vmm.disk.nbd.server", "vmm.disk.qemu_nbd"),
    },
    "vmm.disk.place": {"vmm.disk.nbd.place"},
    "vmm.disk.raw": {"tempfile"},
    "vmm.gdb.place": {"vmm.host.unix_socket"},
    "vmm.hardware": {"vmm.net.opening", "vmm.share.shares"},
    "vmm.image.cache": {"shutil"},
    "vmm.image.content": {"hashlib"},
    "vmm.image.debian": {"shutil", "subprocess"},
    "vmm.image.disk": {"subprocess", "vmm.image.disk_content"},
    "vmm.image.kernel": {"vmm.image.kernel_build"},
    "vmm.machine": {
        *("vmm.agent.upkeep", "vmm.gdb.place", "vmm.gdb.server", "vmm.net.restored"),
        *("vmm.sandbox.threads", "vmm.trace.tracer"),
        *("vmm.vsock", "virtio.vsock"),
    },
    "vmm.snapshot.disks": {"vmm.image.content"},
    "vmm.snapshot.folder": {"shutil"},
    "vmm.x86.boot.boot": {
        "vmm.x86.acpi.tables",
        "vmm.x86.boot.embedded_config",
        "vmm.x86.boot.finds_acpi",
        "vmm.x86.boot.multiboot_info",
    },
    "vmm.x86.boot.initrd": {"vmm.x86.boot.initramfs"},
    "vmm.x86.boot.kernel": {
        "vmm.x86.boot.lookalike",
        "vmm.x86.boot.multiboot",
        "vmm.x86.boot.multiboot2",
        "vmm.x86.boot.payload",
    },
    "vmm.x86.emulation.emulator": {"vmm.x86.native_run"},
    "vmm.x86.idle": {"vmm.x86.native_run"},
    "vmm.x86.platform": {"vmm.x86.acpi.machine"},
}
NOT_IN_A_RUN = {
    # Whoever traces a machine has imported it before.
    "virtio.virtqueue.queue": {"virtio.virtqueue.watched"},
    "virtio.native.ring": {"virtio.native.records"},
    "virtio.log": {"logging"},  # the command's own loggers do without
    # Of tests, and of a filter that is looked at before; see tests/guest/test_trace.py.
    "vmm.trace.filter": {"difflib"},
    "vmm.trace.tracer": {"vmm.trace.query"},
    "vmm.agent.client": {"vmm.agent.kernel_log"},  # for tests, on threads of their own
    # Of a program that plugs devices or asks what drivers do wrong; who resizes a console, or
    # shows counts, has imported it.
    "vmm.machine": {
        *("vmm.agent.binding", "virtio.console", "vmm.stats"),
        *("vmm.balloon.free_pages", "vmm.balloon.host"),
        *("vmm.dump.core_file", "vmm.dump.dump", "vmm.dump.program"),
        "vmm.driver_check.live",
    },
}


def imports_in_functions(source: str) -> Iterator[str]:
    """Name the modules that functions of a module import when they are called."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module
                elif isinstance(node, ast.Import):
                    yield from (one.name for one in node.names)


@pytest.mark.parametrize(
    "command_imports",
    [RUN, SNAPSHOT, TRACED, EXPLAINED],
    ids=["run", "snapshot", "traced", "explained"],
)
def test_what_is_imported_in_the_sandbox_was_imported_before(command_imports: str) -> None:
    usual = {name: value for name, value in os.environ.items() if name != "PYVMM_ENGINE"}
    command = [sys.executable, "-c", command_imports + TELL]
    done = subprocess.run(command, capture_output=True, text=True, env=usual)
    loaded = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    late: dict[str, set[str]] = {}
    for name, file in loaded.items():
        if name.partition(".")[0] in OURS and file.endswith(".py"):
            wanted = set(imports_in_functions(Path(file).read_text())) - loaded.keys()
            wanted -= BEFORE.get(name, set()) | NOT_IN_A_RUN.get(name, set())
            late |= {name: wanted} if wanted else {}

    assert "vmm.machine" in loaded, done.stderr
    assert late == {}


def test_a_debugger_in_the_sandbox_imports_nothing_more() -> None:
    imports = RUN + "import vmm.cli.debugger, vmm.gdb.server, vmm.x86.debug.requests"
    done = subprocess.run([sys.executable, "-c", imports + TELL], capture_output=True, text=True)
    loaded = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    late = {
        name: wanted
        for name, file in loaded.items()
        if name.startswith(("vmm.gdb", "vmm.x86.debug", "vmm.cli.debugger"))
        and (wanted := set(imports_in_functions(Path(file).read_text())) - loaded.keys())
        and not wanted <= BEFORE.get(name, set())
    }

    assert "vmm.gdb.server" in loaded, done.stderr
    assert late == {}


def test_a_run_without_a_debugger_imports_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", RUN + TELL], capture_output=True, text=True)

    assert "vmm.machine" in done.stdout
    assert "vmm.gdb" not in done.stdout


def test_a_run_without_explanations_imports_nothing_of_the_driver_doctor() -> None:
    done = subprocess.run([sys.executable, "-c", RUN + TELL], capture_output=True, text=True)

    assert "vmm.machine" in done.stdout
    assert "vmm.driver_check" not in done.stdout


def test_a_run_without_shares_imports_nothing_of_them() -> None:
    command = [sys.executable, "-c", RUN + TELL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.split()[0] for line in done.stdout.splitlines()}

    assert {name for name in loaded if name.startswith(("virtio.fs", "vmm.share"))} == {
        *("vmm.share", "vmm.share.config")  # what the user may say of them
    }


def test_a_run_without_a_balloon_imports_nothing_of_it() -> None:
    command = [sys.executable, "-c", RUN + TELL]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = [line.split()[0] for line in done.stdout.splitlines()]

    assert "vmm.machine" in loaded
    assert [name for name in loaded if "balloon" in name] == []
