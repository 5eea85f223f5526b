"""Programs for the guest: those that travel in the package, and those that are compiled here."""

from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.image import program
from vmm.image.program import (
    build_packaged,
    compiled,
    compiled_freestanding,
    find_compiler,
    is_compiled,
    is_packaged,
)

START = "void _start(void) { for (;;); }\n"

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler is installed")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the sources of both programs; nothing is built or cached."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("agent.c", "init.c"):
        (folder / name).write_text(START)
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(program, "BUILT", tmp_path / "programs")
    return folder


@needs_compiler
def test_program_that_was_built_with_the_package_needs_no_compiler(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_packaged(sources, tmp_path / "programs")
    monkeypatch.setattr(program, "find_compiler", lambda: None)

    assert [compiled_freestanding(sources / name) for name in ("agent.c", "init.c")] == built
    assert is_packaged(sources / "agent.c")
    assert not (tmp_path / "cache").exists()


@needs_compiler
def test_program_is_compiled_once_it_is_in_the_cache_or_the_package(
    sources: Path, tmp_path: Path
) -> None:
    flags = ("-c",)
    before = is_compiled(sources / "agent.c", flags)
    compiled(sources / "agent.c", flags)

    assert (before, is_compiled(sources / "agent.c", flags)) == (False, True)
    assert not is_compiled(sources / "agent.c", ("-c", "-O2"))


@needs_compiler
@pytest.mark.parametrize("changed", ["agent.c", "header.h"])
def test_changed_source_is_not_served_by_the_program_that_was_built(
    sources: Path, tmp_path: Path, changed: str
) -> None:
    build_packaged(sources, tmp_path / "programs")
    (sources / changed).write_text(f"{START}static const int added = 1;\n")
    found = compiled_freestanding(sources / "agent.c")

    assert not is_packaged(sources / "agent.c")
    assert found is not None
    assert found.is_relative_to(tmp_path / "cache")


@needs_compiler
def test_build_leaves_no_older_program(sources: Path, tmp_path: Path) -> None:
    build_packaged(sources, tmp_path / "programs")
    (sources / "agent.c").write_text(f"/* changed */ {START}")
    built = build_packaged(sources, tmp_path / "programs")

    assert sorted((tmp_path / "programs").iterdir()) == sorted(built)


def test_other_flags_make_another_program(sources: Path) -> None:
    small, fast = (program._name(sources / "init.c", (flag,)) for flag in ("-Os", "-O2"))

    assert small != fast


def test_build_without_a_compiler_is_refused(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "find_compiler", lambda: None)

    with pytest.raises(ConfigurationError, match="no C compiler: none of gcc, cc, clang"):
        build_packaged(sources, tmp_path / "programs")
    assert not (tmp_path / "programs").exists()


def test_other_compiler_serves_where_there_is_no_gcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.image.debian.find_tool", {"clang": "/usr/bin/clang"}.get)

    assert find_compiler() == "/usr/bin/clang"
