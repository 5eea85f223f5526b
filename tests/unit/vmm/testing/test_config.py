"""What a test wants of a guest is checked before anything boots."""

from pathlib import Path
from typing import Any

import pytest

from tests.others import powerless_script
from virtio.errors import ConfigurationError
from vmm.ending.complaints import Complaint
from vmm.net import NetConfig, Switch
from vmm.testing.config import GuestConfig


def test_files_that_are_there_are_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = GuestConfig(kernel=tmp_path / "file", files={"/a": tmp_path / "file", "/b": "text"})

    assert config.machine().kernel == tmp_path / "file"


@pytest.mark.parametrize(
    ("what", "name", "reason"),
    [
        ("kernel", "none", "No such file or directory"),
        ("initrd", "none", "No such file or directory"),
        ("files", "none", "No such file or directory"),
        ("initrd", "", "must be a file"),
        ("files", "", "must be a file"),
    ],
)
def test_file_that_is_none_is_named(tmp_path: Path, what: str, name: str, reason: str) -> None:
    path = tmp_path / name
    shown = "files['/a']" if what == "files" else what
    config = GuestConfig(**{what: {"/a": path} if what == "files" else path})  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError) as raised:
        config.machine()
    assert str(raised.value) == f"{shown}: {path}: {reason}"


def test_folder_without_a_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"kernel {tmp_path}: is a folder without a kern"):
        GuestConfig(kernel=tmp_path).machine()


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0)

    line = powerless_script(
        f"""
        from pathlib import Path
        from vmm.testing.config import GuestConfig
        GuestConfig(files={{"/a": Path({str(tmp_path / "file")!r})}}).machine()
        """
    )

    assert line == f"ConfigurationError: files['/a']: {tmp_path / 'file'}: Permission denied"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 1e300])
def test_deadline_that_no_clock_keeps_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"deadline .*: must be above 0 and at most"):
        GuestConfig(deadline=seconds)


@pytest.mark.parametrize(("said", "mode"), [("require", "require"), ("off", "off"), ("", "auto")])
def test_sandbox_is_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, said: str, mode: str
) -> None:
    monkeypatch.setenv("PYVMM_SANDBOX", said)

    assert GuestConfig().sandbox == mode
    assert GuestConfig(sandbox="off").sandbox == "off"


def test_sandbox_of_another_word_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sandbox 'maybe'"):
        GuestConfig(sandbox="maybe")  # type: ignore[arg-type]


def test_sockets_lead_into_a_guest_that_asks_for_them() -> None:
    assert GuestConfig(vsock=True).machine().vsock == 3
    assert GuestConfig().machine().vsock is None


def test_agent_leaves_the_first_process_to_an_initrd_of_the_tests(tmp_path: Path) -> None:
    (tmp_path / "initrd").touch()

    assert GuestConfig(initrd=tmp_path / "initrd").machine().agent == "beside"
    assert GuestConfig().machine().agent == "init"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"deadline": "soon"}, "deadline 'soon': must be float or int"),
        ({"cpus": 2.0}, "cpus 2.0: must be int or str"),
        ({"memory": 128}, "memory 128: must be str"),
        ({"files": ["/x"]}, r"files \['/x'\]: must be Mapping"),
        ({"files": {"/x": 3}}, r"files\['/x'\]: must be text, bytes or a Path"),
    ],
)
def test_option_of_the_wrong_kind_is_refused_by_its_name(option: Any, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        GuestConfig(**option)


# What a kernel may complain of


COMPLAINT = Complaint(
    "WARNING: CPU: 0 PID: 1 at f.c:1", ["cut here", "WARNING: CPU: 0", "RIP: f+0x1"]
)


@pytest.mark.parametrize(
    ("allowed", "passes"),
    [
        (True, True),
        (False, False),
        ((), False),
        ("^RIP: f", True),
        (["no", "WARNING.*CPU"], True),
        ("RIP: g", False),
    ],
)
def test_complaint_passes_if_a_pattern_is_found_in_its_lines(allowed: Any, passes: bool) -> None:
    assert GuestConfig(allow_complaints=allowed).allows(COMPLAINT) is passes


@pytest.mark.parametrize("allowed", ["(", ["x", 5]])
def test_pattern_that_is_none_is_refused(allowed: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be True or regular expressions"):
        GuestConfig(allow_complaints=allowed)


def test_guests_that_differ_in_what_they_may_complain_of_are_shared() -> None:
    assert GuestConfig(allow_complaints=True) == GuestConfig()


# Its kernel


def test_default_kernel_has_a_name() -> None:
    assert GuestConfig(kernel="default") == GuestConfig()


@pytest.mark.parametrize("kernel", [5, ["default"], b"x"])
def test_kernel_of_another_kind_is_refused(kernel: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"kernel .*: must be str or Path or None"):
        GuestConfig(kernel=kernel)


def test_networks_may_be_switches_texts_or_configurations() -> None:
    with Switch() as switch:
        nets = GuestConfig(nets=(switch, "socket=s", NetConfig(mtu=9000))).networks()

    assert nets[0].make == switch.open
    assert nets[1:] == [NetConfig("socket", "s"), NetConfig(mtu=9000)]
    assert GuestConfig().networks() == []


def test_the_kernel_for_debuggers_is_the_default_guests() -> None:
    machine = GuestConfig(kernel="debug").machine()

    assert (machine.kernel, machine.debug_kernel) == (None, True)
