"""The agent in images: any user's initrd, our own, and the words that start it."""

import gzip
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.image import agent
from vmm.image.busybox import is_static
from vmm.image.program import find_compiler

needs_gcc = pytest.mark.skipif(find_compiler() is None, reason="no C compiler is installed")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Stand in for the compiled agent."""
    (tmp_path / "agent").write_bytes(b"\x7fELF")
    monkeypatch.setattr(agent, "agent_program", lambda: tmp_path / "agent")
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    return b"\x7fELF"


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 1000])
def test_agent_is_added_before_any_initrd_which_begins_at_a_multiple_of_four(
    length: int, program: bytes
) -> None:
    initrd = gzip.compress(b"archive" * 100)[:length]
    image = agent.with_agent(initrd)

    assert image[:6] == b"070701"
    assert image[14:22] == b"000081ED"
    assert image[110:120] == b"vmm-agent\0"
    assert image[120:124] == program
    assert image.endswith(initrd)
    assert (len(image) - len(initrd)) % 4 == 0
    assert image[: len(image) - len(initrd)].rstrip(b"\0").endswith(b"TRAILER!!!")


def test_own_initramfs_is_the_agent_alone_and_made_once(program: bytes) -> None:
    path = agent.agent_initramfs()
    image = path.read_bytes()

    assert b"vmm-agent\0" in image
    assert b"init\0" in image
    assert b"busybox" not in image
    assert agent.agent_initramfs() == path


def test_own_initramfs_with_busybox_has_a_shell(
    program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "busybox").write_bytes(b"\x7fELF\x02".ljust(64, b"\0"))
    monkeypatch.setattr("vmm.image.busybox._PLACES", (tmp_path / "busybox",))

    image = agent.agent_initramfs(busybox=True).read_bytes()

    assert b"bin/busybox\0" in image
    assert b"bin/sh\0" in image
    assert b"vmm-agent\0" in image


def test_words_make_the_agent_the_first_process() -> None:
    assert agent.agent_words() == "rdinit=/vmm-agent"


def test_words_name_the_init_that_it_serves_beside() -> None:
    assert agent.agent_words("/sbin/init") == "rdinit=/vmm-agent VMM_AGENT_INIT=/sbin/init"


@pytest.mark.parametrize("init", ["", "init", "/a b", "/é", '/"'])
def test_init_that_the_command_line_cannot_hold_is_refused(init: str) -> None:
    with pytest.raises(ConfigurationError, match="must be an absolute path"):
        agent.agent_words(init)


@needs_gcc
def test_program_is_small_and_static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))
    compiled = agent.agent_program()

    assert is_static(compiled)
    assert compiled.stat().st_size < 16384
    assert agent.agent_program() == compiled


def test_missing_program_and_compiler_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path))
    monkeypatch.setattr("vmm.image.program.BUILT", tmp_path / "programs")
    monkeypatch.setattr("vmm.image.debian.find_tool", lambda name: None)
    advice = "was not built with this package, and there is no C compiler: install a wheel that"

    with pytest.raises(ConfigurationError, match=f"^the guest's agent {advice}"):
        agent.agent_program()
    assert agent.agent_finding().startswith(advice)
