"""The choice of the engine: what there is, what is wanted, and what cannot be had."""

import os
import runpy
import shutil
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from virtio import Queue, QueueLayout, engine
from virtio.errors import ConfigurationError
from virtio.testing import SplitDriver, flat_memory

PROJECT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_chosen", None)
    monkeypatch.delenv("PYVMM_ENGINE", raising=False)


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as where there was no C compiler."""
    monkeypatch.setattr(engine, "_module", lambda: None)


def test_the_fast_engine_is_the_default_where_it_was_built() -> None:
    pytest.importorskip("virtio.native._native", reason="the native engine was not built")
    assert engine.current() == "native"
    assert engine.native() is not None


@pytest.mark.usefixtures("unbuilt")
def test_python_is_the_default_where_nothing_was_built() -> None:
    assert engine.current() == "python"
    assert engine.native() is None


@pytest.mark.usefixtures("unbuilt")
def test_an_engine_that_was_not_built_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="engine native: it was not built; install"):
        engine.use("native")


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="engine 'fast': native, rings, python are allowed"
    ):
        engine.use("fast")


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", "python")
    assert engine.current() == "python"


def test_a_bad_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", "rust")
    with pytest.raises(ConfigurationError, match="engine 'rust'"):
        engine.check_environment()


def test_what_is_chosen_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", "rust")
    engine.use("python")
    assert engine.native() is None


# Another machine type


@pytest.fixture
def aarch64(monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.uname_result((*os.uname()[:4], "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: other)


REFUSAL = "^this host is aarch64; virtqueues are for x86-64 only so far"


@pytest.mark.usefixtures("aarch64", "unbuilt")
def test_a_queue_without_proven_memory_orderings_is_refused() -> None:
    memory = flat_memory((0, 1 << 20))
    layout = QueueLayout(*SplitDriver(memory, 8).layout)

    with pytest.raises(ConfigurationError, match=REFUSAL):
        Queue(memory, layout, 0)


@pytest.mark.usefixtures("aarch64", "unbuilt")
@pytest.mark.parametrize("name", ["native", "rings"])
def test_no_compiler_is_asked_for_where_none_would_help(name: str) -> None:
    with pytest.raises(ConfigurationError, match=REFUSAL):
        engine.use(name)


@pytest.mark.usefixtures("aarch64")
def test_installing_builds_no_native_part_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = Mock()
    monkeypatch.setattr(pytest.importorskip("setuptools"), "setup", setup)

    runpy.run_path(str(PROJECT / "setup.py"))

    setup.assert_called_once_with(ext_modules=[])
    assert "for x86-64 only" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_compiler_refuses_the_native_part_there() -> None:
    header = PROJECT / "virtio/native/native.h"
    command = ["cc", "-U__x86_64__", "-fsyntax-only", str(header)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert "#error" in done.stderr
    assert "memory orderings are not proven" in done.stderr
