"""Imports point one way: vmm to transport to virtio, and what is x86 stays where it belongs.

Nor does a machine import at its start what it does not need.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "virtio": {"virtio"},
    "transport": {"virtio", "transport"},
    "vmm": {"virtio", "transport", "vmm"},
}

OWN_NAMES = {"vmm.agent": {"PORT_NAME"}}
LAZY = ["virtio", "vmm", "vmm.agent", "vmm.image", "vmm.snapshot", "vmm.testing", "vmm.x86"]
NOT_FOR_A_START = {
    # Ours, for other machines and for later.
    *(
        "tests",
        "virtio.console",
        "virtio.testing",
        "vmm.agent.upkeep",
        "vmm.stats",
        "vmm.console.raw_terminal",
        "vmm.console.input",
    ),
    *("vmm.image.kernel_build", "vmm.image.options", "vmm.testing"),
    *("vmm.agent.client", "vmm.agent.protocol", "vmm.snapshot", "vmm.x86.chip_state"),
    *(
        "vmm.x86.host_identity",
        "vmm.x86.boot.lookalike",
        "vmm.x86.boot.payload",
        "transport.pci",
        "virtio.balloon",
        "virtio.net",
        "virtio.vsock",
        "vmm.net.opening",
        "vmm.net.options",
        "vmm.vsock",
        "vmm.x86.vcpu_state",
    ),
    # The library's, each with many others behind it.
    *("argparse", "asyncio", "bz2", "concurrent", "dataclasses", "email", "gettext", "inspect"),
    *("json", "locale", "logging", "lzma", "multiprocessing", "pickle", "random", "shlex"),
    *("shutil", "socket", "subprocess", "tempfile", "traceback", "urllib.request", "zlib"),
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_lies_below_it(package: str) -> None:
    ours = {"virtio", "transport", "vmm", "tests"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for module in imported_modules(path)
        if module.split(".")[0] in ours - ALLOWED[package]
    ]

    assert wrong == []


def modules_of(*packages: str) -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of each module."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def outside_of_x86() -> Iterator[tuple[str, Path]]:
    rooms = ("vmm.x86", "vmm.legacy", "vmm.course")  # the course teaches this architecture
    for name, path in modules_of(*ALLOWED):
        if not f"{name}.".startswith(tuple(f"{room}." for room in rooms)):
            yield name, path


def test_x86_has_one_door() -> None:
    wrong = [
        f"{name} imports {module}"
        for name, path in outside_of_x86()
        for module in imported_modules(path)
        if module.startswith("vmm.x86.")
    ]

    assert wrong == []


def identifiers(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        for field in ("id", "attr", "name", "arg", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def test_what_all_transports_share_knows_no_registers() -> None:
    # The package exports all its parts, and the driver for tests writes the registers.
    wrong = [
        f"{name} has {word}"
        for name, path in modules_of("transport")
        if not name.startswith("transport.testing") and name != "transport"
        for room in ("mmio", "pci")
        if room not in name
        for word in (*imported_modules(path), *identifiers(path))
        if room in word.lower()
    ]

    assert wrong == []


X86_WORDS = {
    *("x86", "x86_64", "amd64", "rip", "rsp", "rflags", "eflags", "rax", "cr0", "cr3", "cr4"),
    *("efer", "sregs", "msr", "msrs", "lapic", "apic", "ioapic", "pic", "pit", "irqchip", "tsc"),
    *("cpuid", "hlt", "e820", "gdt", "idt", "tss", "pvh", "linux64", "bzimage", "mptable"),
    *("xsave", "xcrs", "i8042", "acpi", "smap", "clac", "stac"),
}
X86_WORDS_ALLOWED = {
    # linux/kvm.h has this exit for every architecture.
    ("vmm.kvm.vcpu", "KVM_EXIT_HLT"),
    # A file that Linux builds, and users hand to other tools.
    ("vmm.cli.image", "bzimage"),
    ("vmm.image.kernel", "bzimage"),
    ("vmm.image.kernel_build", "bzimage"),
    # An option of a machine; the standard is not for x86 alone.
    ("vmm.boot_source", "acpi"),
    ("vmm.cli.machine_options", "acpi"),
    ("vmm.config", "acpi"),
    ("vmm.drivers", "acpi"),
}


def test_x86_words_stay_in_x86() -> None:
    found = {
        (name, identifier)
        for name, path in outside_of_x86()
        for identifier in identifiers(path)
        if X86_WORDS & set(identifier.lower().split("_"))
    }

    assert found == X86_WORDS_ALLOWED


def running_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run, at once or in a function; not those of ``TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from running_imports(ast.Module([other], []))
        else:
            yield from running_imports(node)


def lazy_homes(package: str, tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a package gets its names from when they are used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "lazy_names":
            [homes] = [one for one in node.args if isinstance(one, ast.Dict)]
            for key in homes.keys:
                assert isinstance(key, ast.Constant)
                yield f"{package}.{key.value!s}"


def test_imports_make_no_circle() -> None:
    modules = dict(modules_of(*ALLOWED))
    graph = dict[str, set[str]]()
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        targets = set(lazy_homes(name, tree))
        for node in running_imports(tree):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= (inner & modules.keys()) or {node.module}
        graph[name] = targets & modules.keys()

    try:
        TopologicalSorter(graph).prepare()
        circle = list[str]()
    except CycleError as error:
        circle = error.args[1]

    assert circle == []


def test_kvm_layer_knows_nothing_of_the_machine() -> None:
    wrong = [
        module
        for path in (ROOT / "vmm" / "kvm").glob("*.py")
        for module in imported_modules(path)
        if module.startswith("vmm") and not module.startswith(("vmm.kvm", "vmm.host.resource"))
    ]

    assert wrong == []


def modules_after(code: str) -> set[str]:
    """Return what ``code`` imports that a new interpreter does not have anyway."""
    program = f"import sys; before = {{*sys.modules}}\n{code}\nprint(*sys.modules.keys() - before)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return set(done.stdout.split())


def test_a_start_imports_only_what_it_needs() -> None:
    # This gets as far as a start does before it opens the host's devices, and is then refused.
    refused = "from vmm.cli import main; assert main(['run', '--memory', '1K']) == 2"
    modules = modules_after(f"{refused}\nimport vmm.image.disk, vmm.image.initramfs")

    assert "vmm.machine" in modules
    assert modules & NOT_FOR_A_START == set()


def test_named_tuples_are_those_that_are_made_fast() -> None:
    allowed = {"virtio.named_tuple", "virtio.testing.driver"}
    slow = {
        name
        for name, path in modules_of(*ALLOWED)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "typing"
        if any(alias.name == "NamedTuple" for alias in node.names)
    }

    assert slow <= allowed


@pytest.mark.parametrize("package", LAZY)
def test_package_imports_its_parts_when_they_are_used(package: str) -> None:
    above = {package[:end] for end, letter in enumerate(package) if letter == "."}
    helper = {"virtio", "virtio.lazy"}

    assert modules_after(f"import typing, {package}") - modules_after("import typing") == {
        package,
        *above,
        *helper,
    }


def names_for_the_type_checker(package: str) -> dict[str, str]:
    """Return the module of each name that a package imports ``if TYPE_CHECKING``."""
    source = Path(str(import_module(package).__file__)).read_text()
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {str(one.asname): str(node.module) for node in imports for one in node.names}


@pytest.mark.parametrize("package", LAZY)
def test_public_names_are_those_that_the_type_checker_sees(package: str) -> None:
    module = import_module(package)
    seen = names_for_the_type_checker(package)

    assert set(module.__all__) - seen.keys() == OWN_NAMES.get(package, set())
    assert {name for name, home in seen.items() if not is_same(module, home, name)} == set()


def is_same(module: ModuleType, home: str, name: str) -> bool:
    return getattr(module, name) is getattr(import_module(home), name)


@pytest.mark.parametrize("package", LAZY)
def test_name_that_a_package_does_not_have_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        import_module(package).nothing_of_this_name  # noqa: B018
