"""The default kernel's configuration check, its choice of a source, and its cache."""

import os
import re
import select
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.image import debian, kernel, kernel_build, kernel_config
from vmm.image.progress import silent

ROOT = Path(__file__).parents[4]
FRAGMENT = ROOT / "guest-images" / "kernel.config"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of each test in a folder of its own."""
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder that is searched for linux-source archives."""
    folder = tmp_path / "src"
    folder.mkdir()
    monkeypatch.setattr(kernel, "_SOURCES", folder)
    monkeypatch.setattr(kernel.newest_source, "__defaults__", (folder,))
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replace the build by one that notes its source; return the notes."""
    noted: list[Path] = []

    def build(
        tarball: Path,
        fragments: list[Path],
        target: Path,
        progress: Callable[..., None],
        *,
        bzimage: bool,
    ) -> None:
        noted.append(tarball)
        if bzimage:
            (target / "bzImage").touch()
        (target / "release").write_text("6.1.0-test\n")

    monkeypatch.setattr(kernel_build, "build", build)
    return noted


def test_fragment_is_read_as_options_and_values() -> None:
    text = '# why\nCONFIG_A=y\nCONFIG_B=n\n\nCONFIG_C="-x"\n# CONFIG_D is not set\nCONFIG_E=8\n'

    options = kernel_config.parse(text, "fragment")

    assert options == {
        "CONFIG_A": "y",
        "CONFIG_B": "n",
        "CONFIG_C": '"-x"',
        "CONFIG_D": "n",
        "CONFIG_E": "8",
    }


@pytest.mark.parametrize("line", ["CONFIG_A", "A=y", "CONFIG_A ="])
def test_line_that_is_no_option_is_named(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"fragment:2: .*: not CONFIG_NAME=value"):
        kernel_config.parse(f"CONFIG_B=y\n{line}\n", "fragment")


def test_option_given_twice_is_named() -> None:
    with pytest.raises(ConfigurationError, match="fragment:2: CONFIG_A is given twice"):
        kernel_config.parse("CONFIG_A=y\nCONFIG_A=n\n", "fragment")


def test_options_that_came_out_otherwise_are_listed() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": "8", "CONFIG_D": "n"}
    got = {"CONFIG_B": "y", "CONFIG_C": "8"}

    assert kernel_config.unmet(wanted, got) == ["CONFIG_A=y (got n)", "CONFIG_B=n (got y)"]


def test_later_fragment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    # As Kconfig does with an option that is there twice: the last one counts.
    recipe = "tinyconfig:\n\t@:\n"
    recipe += "olddefconfig:\n\t@tac .config | sort -su -t= -k1,1 >new; mv new .config\n"
    tarball = source_with(tmp_path, recipe)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("CONFIG_A=n\nCONFIG_B=y\n")
    second.write_text("CONFIG_A=y\n")

    target = empty(tmp_path / "target")

    with pytest.raises(ConfigurationError, match=r"make failed.*vmlinux"):
        kernel_build.build(tarball, [first, second], target, silent)
    assert (target / "source" / ".config").read_text() == "CONFIG_A=y\nCONFIG_B=y\n"


@pytest.mark.parametrize(
    "option",
    [
        "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES",
        "CONFIG_VIRTIO_BLK",
        "CONFIG_VIRTIO_NET",
        "CONFIG_VIRTIO_CONSOLE",
        "CONFIG_HW_RANDOM_VIRTIO",
        "CONFIG_VIRTIO_VSOCKETS",
        "CONFIG_VIRTIO_BALLOON",
        "CONFIG_NET_9P_VIRTIO",
        "CONFIG_PVH",
        "CONFIG_X86_MPPARSE",
        "CONFIG_KVM_GUEST",
        "CONFIG_DEVMEM",
        "CONFIG_EXT4_FS",
    ],
)
def test_our_fragment_asks_for(option: str) -> None:
    assert kernel_config.parse(FRAGMENT.read_text(), "kernel.config")[option] == "y"


@pytest.mark.parametrize(("cpus", "smp"), [(1, "n"), (2, "y"), (64, "y")])
def test_only_the_kernel_for_several_processors_is_for_several(cpus: int, smp: str) -> None:
    options: dict[str, str] = {}
    for fragment in kernel.fragments(cpus):
        options |= kernel_config.parse(fragment.read_text(), str(fragment))

    assert options["CONFIG_SMP"] == smp
    assert cpus == 1 or int(options["CONFIG_NR_CPUS"]) >= cpus


def test_machine_of_one_processor_without_pci_has_a_kernel_of_its_own() -> None:
    small, *others = (kernel.fragments(cpus, pci=pci) for cpus in (1, 4) for pci in (False, True))
    options: list[dict[str, str]] = [{}, {}]
    for parsed, recipe in zip(options, (small, others[0]), strict=True):
        for part in recipe:
            parsed |= kernel_config.parse(part.read_text(), str(part))
    pci = [[each.get(f"CONFIG_{name}") for name in ("PCI", "VIRTIO_PCI")] for each in options]

    assert others == [others[0]] * 3
    assert pci == [["n", "n"], ["y", "y"]]


def test_comment_of_a_configuration_builds_no_other_kernel(tmp_path: Path) -> None:
    recipe = [tmp_path / name for name in ("plain", "explained", "changed")]
    for path, text in zip(recipe, ("A=y\n", "# Why.\n\nA=y\n", "A=n\n"), strict=True):
        path.write_text(text)
    plain, explained, changed = (kernel.options([path]) for path in recipe)

    assert plain == explained != changed


def test_only_the_kernel_for_debuggers_has_symbols_and_where_to_begin() -> None:
    found = []
    for debug in (False, True):
        options: dict[str, str] = {}
        for fragment in kernel.fragments(2, debug=debug):
            options |= kernel_config.parse(fragment.read_text(), str(fragment))
        found.append([options.get(f"CONFIG_{one}") for one in ("DEBUG_INFO_DWARF5", "PROC_KCORE")])

    assert found == [[None, None], ["y", "y"]]


def test_more_processors_than_the_kernel_is_for_are_refused(builds: list[Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"65 processors: .* is for 1 to 64; .*--kernel"):
        kernel.default_kernel(cpus=65)

    assert builds == []


def test_newest_source_is_chosen_by_number(sources: Path) -> None:
    for version in ("5.10", "6.9", "6.12"):
        (sources / f"linux-source-{version}.tar.xz").write_bytes(b"")

    assert kernel.newest_source(sources) == sources / "linux-source-6.12.tar.xz"


def test_kernel_is_built_once_for_each_source(sources: Path, builds: list[Path]) -> None:
    tarball = sources / "linux-source-6.1.tar.xz"
    tarball.write_bytes(b"one")

    first = kernel.default_kernel()
    again = kernel.default_kernel()
    tarball.write_bytes(b"updated")
    other = kernel.default_kernel()

    assert first == again
    assert first.release == "6.1.0-test"
    assert other.key != first.key
    assert builds == [tarball, tarball]


def test_machine_with_one_processor_has_a_kernel_of_its_own(
    sources: Path, builds: list[Path]
) -> None:
    (sources / "linux-source-6.1.tar.xz").write_bytes(b"one")

    one, two = kernel.default_kernel(), kernel.default_kernel(cpus=2)

    assert one.key != two.key
    assert kernel.default_kernel(cpus=8) == two
    assert kernel.cached_kernel() == one
    assert len(builds) == 2


def test_second_form_of_the_kernel_is_built_when_it_is_asked_for(
    sources: Path, builds: list[Path]
) -> None:
    (sources / "linux-source-6.1.tar.xz").write_bytes(b"one")
    without = kernel.default_kernel()
    both = kernel.default_kernel(bzimage=True)

    assert without.bzimage is None
    assert both.bzimage is not None
    assert both.bzimage.exists()
    assert kernel.default_kernel() == both
    assert len(builds) == 2


def test_kernel_for_debuggers_is_another_one_in_the_cache(
    sources: Path, builds: list[Path]
) -> None:
    (sources / "linux-source-6.1.tar.xz").touch()
    usual, debug = kernel.default_kernel(), kernel.default_kernel(debug=True)

    assert usual.key != debug.key
    assert kernel.cached_kernel() == usual
    assert kernel.cached_kernel(debug=True) == debug


def test_cached_kernel_serves_when_the_source_is_gone(sources: Path, builds: list[Path]) -> None:
    tarball = sources / "linux-source-6.1.tar.xz"
    tarball.write_bytes(b"one")
    built = kernel.default_kernel()
    tarball.unlink()

    assert kernel.default_kernel() == built


@pytest.mark.usefixtures("sources")
def test_missing_source_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ConfigurationError, match=r"apt-get install linux-source$"):
        kernel.default_kernel()


def test_missing_tools_name_each_package_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    needs = {"no-such-flex": "flex", "no-such-bc": "bc", "/no/such.h": "bc", sys.executable: "py"}

    with pytest.raises(ConfigurationError, match=r"the thing needs .*: apt-get install bc flex$"):
        debian.ensure(needs, "the thing", silent)


def test_option_that_the_kernel_drops_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    tarball = source_with(
        tmp_path, "tinyconfig olddefconfig:\n\t@printf 'CONFIG_A=y\\n' > .config\n"
    )
    fragment = tmp_path / "fragment"
    fragment.write_text("CONFIG_A=y\nCONFIG_GONE=y\n")
    later = tmp_path / "later"
    later.write_text("CONFIG_A=y\n")

    with pytest.raises(ConfigurationError, match=r"does not take CONFIG_GONE=y \(got n\)"):
        kernel_build.build(tarball, [fragment, later], empty(tmp_path / "target"), silent)


@pytest.mark.parametrize(("known", "lacks"), [("", False), ("# CONFIG_SLAB is not set", True)])
def test_option_that_later_kernels_do_without_is_wanted_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str, lacks: bool
) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    configure = f"tinyconfig olddefconfig:\n\t@printf '{known}\\n' > .config\n"
    tarball = source_with(tmp_path, configure + "vmlinux bzImage:\n\t@echo reached; exit 1\n")
    fragment = tmp_path / "fragment"
    fragment.write_text("CONFIG_SLAB=y\n")

    with pytest.raises(ConfigurationError) as failure:
        kernel_build.build(tarball, [fragment], empty(tmp_path / "target"), silent)

    assert ("does not take CONFIG_SLAB=y" in str(failure.value)) is lacks


def test_compiler_error_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    recipe = (
        "tinyconfig olddefconfig:\n\t@:\nvmlinux bzImage:\n\t@echo 'a.c:1: error: bad'; exit 1\n"
    )
    tarball = source_with(tmp_path, recipe)
    fragment = tmp_path / "fragment"
    fragment.write_text("CONFIG_A=n\n")

    with pytest.raises(
        ConfigurationError, match=re.escape("make failed with status 2: a.c:1: error: bad")
    ):
        kernel_build.build(tarball, [fragment], empty(tmp_path / "target"), silent)


MAKES_ALL = """
vmlinux:
	@cp /bin/true vmlinux; touch .config System.map
	@mkdir -p include/config include/generated arch/x86/boot
	@echo 9.9 > include/config/kernel.release; touch include/generated/compile.h
bzImage: vmlinux
	@touch arch/x86/boot/bzImage
"""


@pytest.mark.skipif(shutil.which("strip") is None, reason="needs strip")
def test_interrupted_build_goes_on_without_unpacking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    target = empty(tmp_path / "target")
    (empty(target / "source") / "Makefile").write_text(MAKES_ALL)
    (target / "prepared").touch()

    kernel_build.build(tmp_path / "not-there.tar.xz", [tmp_path / "not-read"], target, silent)

    assert sorted(os.listdir(target)) == sorted(kernel_build.PRODUCTS)


@pytest.mark.skipif(shutil.which("strip") is None, reason="needs strip")
def test_second_form_of_the_kernel_comes_from_the_same_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    target = empty(tmp_path / "target")
    (empty(target / "source") / "Makefile").write_text(MAKES_ALL)
    (target / "prepared").touch()

    kernel_build.build(tmp_path / "none.tar.xz", [tmp_path / "x"], target, silent, bzimage=True)

    assert sorted(os.listdir(target)) == sorted([*kernel_build.PRODUCTS, "bzImage"])


@pytest.mark.skipif(shutil.which("strip") is None, reason="needs strip")
def test_kernel_with_symbols_keeps_them_in_a_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_build, "NEEDS", {})
    target = empty(tmp_path / "target")
    recipe = MAKES_ALL.replace("touch .config", "echo CONFIG_DEBUG_INFO=y > .config; touch")
    (empty(target / "source") / "Makefile").write_text(recipe)
    (target / "prepared").touch()

    kernel_build.build(tmp_path / "none.tar.xz", [tmp_path / "x"], target, silent)

    assert sorted(os.listdir(target)) == sorted([*kernel_build.PRODUCTS, "vmlinux.debug"])
    assert (target / "vmlinux.debug").read_bytes() == Path("/bin/true").read_bytes()


def test_compilation_ends_with_the_process_that_wanted_it(tmp_path: Path) -> None:
    target = empty(tmp_path / "target")
    # One after the other, so that one compiler alone writes its number.
    makefile = "bzImage: vmlinux\nvmlinux:\n"
    makefile += "\t@echo $$$$ > pid; echo '  CC a.c'; exec sleep 60\n"
    (empty(target / "source") / "Makefile").write_text(makefile)
    (target / "prepared").touch()
    script = f"""
        from pathlib import Path
        from vmm.image import kernel_build
        kernel_build.NEEDS.clear()
        path = Path({str(target)!r})
        kernel_build.build(path, [path], path, lambda stage, text: print(text, flush=True))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline().startswith("1 of ")
        compiler = int((target / "source" / "pid").read_text())
        descriptor = os.pidfd_open(compiler)
        builder.kill()
    try:
        assert select.select([descriptor], [], [], 20)[0], "the compiler went on"
    finally:
        os.close(descriptor)


def source_with(folder: Path, makefile: str) -> Path:
    """Return a source archive that holds only a Makefile."""
    tree = empty(folder / "linux-source-9.9")
    (tree / "Makefile").write_text(makefile)
    tarball = folder / "linux-source-9.9.tar.xz"
    with tarfile.open(tarball, "w:xz") as archive:
        archive.add(tree, tree.name)
    return tarball


def empty(folder: Path) -> Path:
    """Make a folder and return it."""
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["with blank", "colon:", "dollar$", "hash#", "tab\t"])
def test_cache_that_make_cannot_build_in_is_refused_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: Path
) -> None:
    (sources / "linux-source-6.1.tar.xz").touch()
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / name))
    monkeypatch.setattr(kernel_build, "build", lambda *_: pytest.fail("it was begun"))

    with pytest.raises(ConfigurationError, match=r"no kernel can be built below a path with '"):
        kernel.default_kernel()
    assert not (tmp_path / name).exists()


def test_cache_path_may_have_what_make_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: Path, builds: list[Path]
) -> None:
    (sources / "linux-source-6.1.tar.xz").touch()
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "grün-1.2_x,y+z@w"))

    kernel.default_kernel()

    assert len(builds) == 1
