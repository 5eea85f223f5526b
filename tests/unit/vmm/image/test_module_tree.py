"""The modules of a kernel are found by name, and loaded behind those that they need."""

import gzip
import lzma
from pathlib import Path

import pytest
import zstandard

from tests.unit.vmm.image.module_files import installed, module_file
from virtio.errors import ConfigurationError
from vmm.image.module_tree import ModuleTree, built_modules, installed_modules

VIRTIO = {
    "virtio_blk": ("virtio", "virtio_ring"),
    "virtio": ("virtio_ring",),
    "virtio_ring": (),
    "virtio-rng": ("virtio", "virtio_ring"),
}


def order(tree: ModuleTree, *names: str) -> list[str]:
    return [one.name for one in tree.load_order(names)]


@pytest.mark.parametrize("dep", [True, False])
def test_each_module_is_loaded_once_and_behind_those_that_it_needs(
    tmp_path: Path, dep: bool
) -> None:
    tree = installed_modules(installed(tmp_path / "m", VIRTIO, dep=dep))

    assert order(tree, "virtio_blk", "virtio_rng") == [
        *("virtio_ring", "virtio", "virtio_blk", "virtio_rng")
    ]


def test_what_modules_dep_says_goes_before_what_a_module_says(tmp_path: Path) -> None:
    folder = installed(tmp_path / "m", {"one": (), "two": ()})
    (folder / "modules.dep").write_text("kernel/one.ko: kernel/two.ko\nkernel/two.ko:\n")

    assert order(installed_modules(folder), "one") == ["two", "one"]


def test_what_is_built_in_is_not_loaded(tmp_path: Path) -> None:
    tree = installed_modules(
        installed(tmp_path / "m", {"virtio_blk": ("virtio",)}, ["virtio"], dep=False)
    )

    assert order(tree, "virtio_blk", "virtio") == ["virtio_blk"]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".xz", lzma.compress), (".gz", gzip.compress), (".zst", zstandard.compress)],
)
def test_compressed_modules_are_unpacked_for_the_guest(
    tmp_path: Path, suffix: str, pack: object
) -> None:
    data = module_file("virtio_ring")
    folder = installed(tmp_path / "m", {})
    (folder / f"kernel/virtio_ring.ko{suffix}").write_bytes(pack(data))  # type: ignore[operator]
    (folder / "modules.dep").write_text(f"kernel/virtio_ring.ko{suffix}:\n")

    assert installed_modules(folder).module("virtio_ring").data == data


def test_modules_order_names_files_that_were_compressed_since(tmp_path: Path) -> None:
    folder = installed(tmp_path / "m", {"virtio_ring": ()}, dep=False)
    file = folder / "kernel/virtio_ring.ko"
    (folder / "kernel/virtio_ring.ko.xz").write_bytes(lzma.compress(file.read_bytes()))
    file.unlink()

    assert order(installed_modules(folder), "virtio_ring") == ["virtio_ring"]


@pytest.mark.parametrize(
    "line", ["drivers/virtio/x.ko", "drivers/virtio/x.o", "kernel/drivers/virtio/x.ko"]
)
def test_a_build_tree_lists_its_modules_in_three_ways(tmp_path: Path, line: str) -> None:
    (tmp_path / "drivers/virtio").mkdir(parents=True)
    (tmp_path / "drivers/virtio/x.ko").write_bytes(module_file("x"))
    (tmp_path / "modules.order").write_text(f"{line}\n")

    assert order(built_modules(tmp_path), "x") == ["x"]


def test_a_build_tree_without_a_list_is_searched(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/x-y.ko").write_bytes(module_file("x_y"))

    assert order(built_modules(tmp_path), "x_y") == ["x_y"]


def test_a_soft_dependency_is_loaded_before_where_it_is(tmp_path: Path) -> None:
    folder = installed(tmp_path / "m", {"crc": ()}, dep=False)
    (folder / "kernel/fs.ko").write_bytes(module_file("fs", softdep="pre: crc missing"))
    with (folder / "modules.order").open("a") as file:
        file.write("kernel/fs.ko\n")

    assert order(installed_modules(folder), "fs") == ["crc", "fs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel/one.ko\n", "modules.dep:1: 'kernel/one.ko': not MODULE: MODULES"),
        ("kernel/one.ko:\n\0\0\0\n", "modules.dep:2: "),
        ("kernel/one.ko: kernel/two.ko\n", "modules.dep:1: 'kernel/one.ko': needs kernel/two.ko"),
        ("../../etc/one.ko:\n", "modules.dep:1: "),
    ],
)
def test_a_damaged_modules_dep_is_refused_with_the_line_and_what_makes_it_anew(
    tmp_path: Path, text: str, message: str
) -> None:
    folder = installed(tmp_path / "6.1.0-9-test", {"one": ()})
    (folder / "modules.dep").write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        installed_modules(folder)

    assert message in str(caught.value)
    assert "depmod -a 6.1.0-9-test" in str(caught.value)


def test_modules_that_need_each_other_are_refused(tmp_path: Path) -> None:
    tree = installed_modules(installed(tmp_path / "m", {"one": ("two",), "two": ("one",)}))

    with pytest.raises(ConfigurationError, match="in a circle: one needs two needs one"):
        order(tree, "one")


def test_a_needed_module_that_is_missing_is_named_with_the_one_that_needs_it(
    tmp_path: Path,
) -> None:
    tree = installed_modules(installed(tmp_path / "m", {"one": ("lost",)}, dep=False))

    with pytest.raises(ConfigurationError, match="the module lost, which one needs, is not there"):
        order(tree, "one")


def test_a_module_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    folder = installed(tmp_path / "m", {"one": ()})
    (folder / "kernel/one.ko").unlink()

    with pytest.raises(ConfigurationError, match=r"module .*/kernel/one\.ko: No such file"):
        order(installed_modules(folder), "one")


def test_a_module_that_is_damaged_in_compression_is_named(tmp_path: Path) -> None:
    folder = installed(tmp_path / "m", {"one": ()})
    (folder / "kernel/one.ko").write_bytes(lzma.compress(module_file("one"))[:-20])

    with pytest.raises(ConfigurationError, match=r"one\.ko: its xz data is damaged"):
        order(installed_modules(folder), "one")


def test_a_module_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.image.module_tree.MODULE_BYTES_MAX", 1000)
    folder = installed(tmp_path / "m", {"one": ()})
    (folder / "kernel/one.ko").write_bytes(gzip.compress(bytes(5000)))

    with pytest.raises(ConfigurationError, match="unpacks to more than 1000 bytes"):
        order(installed_modules(folder), "one")
