"""What the user says of shares: read, checked, and told to the guest's init."""

from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm import MachineConfig
from vmm.boot_source import boot_source
from vmm.cli.caller import folder_in
from vmm.drivers import drivers
from vmm.share.config import ShareConfig, mount_word


def test_a_share_is_for_reading_unless_it_says_otherwise() -> None:
    assert ShareConfig.parse("/a:/b") == ShareConfig("/a", "/b", writable=False)
    assert ShareConfig.parse("/a:/b,ro").writable is False
    assert ShareConfig.parse("/a:/b,rw").writable is True


def test_a_source_may_have_colons_and_commas() -> None:
    share = ShareConfig.parse("/a:b,,c:/d,cache=always,locks=host,tag=src")

    assert share == ShareConfig("/a:b,c", "/d", False, "always", "host", "src")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a", "must be SRC:DST, two directories"),
        (":/b", "must be SRC:DST"),
        ("/a:", "must be SRC:DST"),
        ("/a:b", "must be an absolute path"),
        ("/a:/b c", "without blanks"),
        ("/a:/b/../c", "must be written as /c"),
        ("/a:/b/", "must be written as /b"),
        ('/a:/"', "double quotes"),
        ("/a:/ä", "ASCII"),
        ("/a:/b,rw,ro", "is given twice"),
        ("/a:/b,cache=none,cache=none", "is given twice"),
        ("/a:/b,cache", "must be one of ro, rw, cache"),
        ("/a:/b,cache=often", "must be one of auto, always, none"),
        ("/a:/b,locks=all", "must be one of guest, host"),
        ("/a:/b,what=1", "must be one of ro, rw"),
        ("/a:/b,tag=" + "t" * 37, "at most 36 bytes"),
        ("/a:/,rw", "the root is never written"),
    ],
)
def test_a_share_that_cannot_be_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as told:
        ShareConfig.parse(text)

    assert "\n" not in str(told.value)


def test_shares_at_one_place_or_of_one_tag_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be at different places"):
        MachineConfig(shares=(ShareConfig("/a", "/b"), ShareConfig("/c", "/b")))
    with pytest.raises(ConfigurationError, match="each needs its own"):
        MachineConfig(shares=(ShareConfig("/a", "/b", tag="t"), ShareConfig("/c", "/d", tag="t")))
    with pytest.raises(ConfigurationError, match="at most 16"):
        MachineConfig(shares=tuple(ShareConfig("/a", f"/{n}") for n in range(17)))


def test_a_root_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no bin and no usr/bin"):
        ShareConfig.root(str(tmp_path))
    with pytest.raises(ConfigurationError, match="must be a directory"):
        ShareConfig.root(str(tmp_path / "none"))
    (tmp_path / "usr" / "bin").mkdir(parents=True)

    assert ShareConfig.root(f"{tmp_path},cache=always").is_root


def test_init_is_told_where_to_mount_what() -> None:
    shares = (
        ShareConfig("/", "/"),
        ShareConfig("/a", "/a b".replace(" ", "")),
        ShareConfig("/c", "/d", writable=True, tag="mine"),
    )

    assert mount_word(shares) == "VMM_SHARES=o/=share0:r/ab=share1:w/d=mine"
    assert mount_word(()) == ""


def test_only_an_init_of_ours_is_told(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    shares = (ShareConfig("/a", "/b"),)

    ours = boot_source(MachineConfig(kernel=kernel, shares=shares, initrd=b"", agent="init"))
    users = boot_source(MachineConfig(kernel=kernel, initrd=initrd, shares=shares))

    assert "VMM_SHARES=r/b=share0" in ours.cmdline.split()
    assert "VMM_SHARES" not in users.cmdline


def test_a_kernel_with_modules_gets_those_that_shares_need() -> None:
    one = {driver.module for driver in drivers(MachineConfig(shares=(ShareConfig("/a", "/b"),)))}
    root = {driver.module for driver in drivers(MachineConfig(shares=(ShareConfig("/", "/"),)))}

    assert "virtiofs" in one
    assert {"virtiofs", "overlay"} <= root
    assert "overlay" not in one


@pytest.mark.parametrize(
    ("root", "folder", "inside"),
    [("/", "/usr/bin", "/usr/bin"), ("/usr", "/usr/bin", "/bin"), ("/usr", "/usr", "/")],
)
def test_a_command_begins_where_its_caller_is(root: str, folder: str, inside: str) -> None:
    assert folder_in(root, folder) == inside
    assert folder_in("/usr", "/var") == "/"
