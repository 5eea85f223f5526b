"""The doctor says what is missing of the default guest."""

from pathlib import Path

import pytest

from vmm.cli.doctor import _image_lines
from vmm.image import cache

MISSING = "kernel: the default guest's is not built yet; vmm image build does it"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "cache"


def test_kernel_is_missing_from_an_empty_cache() -> None:
    assert MISSING in list(_image_lines())


def test_kernel_is_missing_when_only_other_images_are_there(folder: Path) -> None:
    cache.obtain("initramfs-1", lambda _: None)
    cache.obtain("snapshot-1", lambda _: None)
    (folder / ".unfinished-kernel-1~resumable-0").mkdir()

    lines = list(_image_lines())

    assert "image:  initramfs-1" in lines
    assert any("resumable-0 (unfinished" in line for line in lines)
    assert MISSING in lines


def test_kernel_that_is_there_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.image.kernel.cached_kernel", lambda: object())

    assert MISSING not in list(_image_lines())
