"""Whose fault an end is, in one line and an exit status: 2 for the user's, 125 for the host's."""

import errno
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError, HostError
from vmm import cli
from vmm.cli import demo, machine_options
from vmm.cli.refusal import explain
from vmm.kvm.system import KvmUnavailable


def explained(error: Exception) -> tuple[int, list[str]]:
    lines: list[str] = []
    return explain(error, lines.append), lines


def configuration_error_from(number: int) -> ConfigurationError:
    """Return an error as it is raised over an OSError whose traceback does not interest."""
    try:
        try:
            raise OSError(number, "why", "disk.img")
        except OSError as error:
            raise ConfigurationError("disk disk.img: cannot be opened") from (
                error if number == errno.EMFILE else None
            )
    except ConfigurationError as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            "the host refused: Too many open files; let the process",
        ),
        (
            OSError(errno.ENOSPC, "No space left", "/tmp/f"),
            "the host refused: '/tmp/f': No space left",
        ),
        (OSError("no usable folder"), "the host refused: no usable folder"),
        (MemoryError(), "the host gives this process no more memory (ulimit -v)"),
        (RuntimeError("can't start new thread"), "the host refused a thread; let the process"),
        (ImportError("x.so: cannot map"), "this program cannot be loaded whole: x.so: cannot map"),
        (HostError("mmap", errno.ENOMEM), "mmap failed: Cannot allocate memory (errno 12); give"),
        (KvmUnavailable("cannot open /dev/kvm"), "cannot open /dev/kvm"),
    ],
)
def test_what_the_host_refuses_is_one_line_and_125(error: Exception, line: str) -> None:
    status, [only] = explained(error)

    assert status == 125
    assert only.startswith(line)


@pytest.mark.parametrize(
    "number",
    [
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.ENOMEM,
        errno.EIO,
    ],
)
def test_lack_of_something_is_the_hosts_whatever_it_stopped(number: int) -> None:
    status, [line] = explained(configuration_error_from(number))

    assert status == 125
    assert line.startswith("disk disk.img: cannot be opened")


def test_lack_of_memory_is_the_hosts_whatever_it_stopped() -> None:
    error = ConfigurationError("disk disk.img: cannot be read")
    error.__cause__ = MemoryError()

    assert explained(error) == (
        125,
        ["disk disk.img: cannot be read; give the guest less, or the process more (ulimit -v)"],
    )


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_wrong_file_is_the_users(number: int) -> None:
    assert explained(configuration_error_from(number)) == (2, ["disk disk.img: cannot be opened"])


def test_bug_is_125_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("oops")
    except KeyError as error:
        status, lines = explained(error)

    assert status == 125
    assert "Traceback" in capsys.readouterr().err
    assert lines[-1].startswith("a bug of this program (KeyError)")


def test_command_that_fails_ends_with_that_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(cli, "check_host", refuse)

    assert cli.main(["image", "list"]) == 125
    assert capsys.readouterr().err == (
        "vmm: the host refused: Too many open files; let the process have more (ulimit -n)\n"
    )


# KVM first


@pytest.fixture
def without_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host have no KVM, and fail when anything is built."""

    def unavailable() -> None:
        raise KvmUnavailable("cannot open /dev/kvm: why")

    for module in (machine_options, demo):
        monkeypatch.setattr(module, "open_kvm", unavailable)
    for name in ("default_kernel", "demo_disk"):
        monkeypatch.setattr(machine_options, name, lambda *_, **__: pytest.fail("built"))
        monkeypatch.setattr(f"vmm.image.{name}", lambda *_, **__: pytest.fail("built"))


@pytest.mark.parametrize("words", [["run"], ["run", "--", "true"], ["snapshot", "x"], ["demo"]])
def test_host_without_kvm_is_told_before_anything_is_built(
    words: list[str],
    without_kvm: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))

    assert cli.main(words) == 125
    assert capsys.readouterr().err == "vmm: cannot open /dev/kvm: why\n"
    assert not (tmp_path / "cache").exists()
