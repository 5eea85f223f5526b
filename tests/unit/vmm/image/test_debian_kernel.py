"""Debian's kernels are found, downloaded and unpacked by apt, here by stand-ins of its tools."""

import os
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.image import cache, debian_kernel
from vmm.image.debian_kernel import known_kernel
from vmm.image.progress import silent

KNOWN = """\
linux-image-6.1.0-9-cloud-amd64 - Linux 6.1
linux-image-6.1.0-47-cloud-amd64 - Linux 6.1
linux-image-6.1.0-47-amd64 - Linux 6.1
linux-image-6.12-cloud-amd64 - the newest 6.12
linux-image-6.12.9+deb12-cloud-amd64 - Linux 6.12
linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12
"""

CACHE = """\
#!/bin/sh
echo "apt-cache $*" >> "$LOG"
case "$*" in
*" search "*) cat "$KNOWN" ;;
*" show "*linux-image-cloud-amd64) echo "Depends: linux-image-6.1.0-47-cloud-amd64 (= 6)" ;;
*" show "*) echo "Version: $(cat "$VERSION")" ;;
esac
"""
GET = """\
#!/bin/sh
echo "apt-get $*" >> "$LOG"
case "$*" in
*update*) [ ! -e "$LOG.offline" ] || { echo "E: Failed to fetch x: no network" >&2; exit 100; } ;;
*download*) [ ! -e "$LOG.gone" ] || { echo "E: Failed to fetch y: 404" >&2; exit 100; }
    : > package.deb ;;
esac
"""
DPKG = """\
#!/bin/sh
mkdir -p "$3/boot" "$3/lib/modules/r" "$3/usr/share/doc"
: > "$3/boot/vmlinuz-r"
"""


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have tools that note what they are called with; gives that file."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("apt-cache", CACHE), ("apt-get", GET), ("dpkg-deb", DPKG)):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    for variable, text in (("KNOWN", KNOWN), ("VERSION", "6-1\n"), ("LOG", "")):
        (tmp_path / variable).write_text(text)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / "LOG"


def downloads(log: Path) -> list[str]:
    return [line.split()[-1] for line in log.read_text().splitlines() if " download " in line]


def found(name: str) -> Path:
    return debian_kernel.debian_kernel(name, silent)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("debian", "linux-image-6.1.0-47-cloud-amd64:amd64"),
        ("debian:6.1", "linux-image-6.1.0-47-cloud-amd64:amd64"),
        ("debian:6.1.0-9", "linux-image-6.1.0-9-cloud-amd64:amd64"),
        ("debian:6.1-generic", "linux-image-6.1.0-47-amd64:amd64"),
        ("debian:6.12", "linux-image-6.12.117+deb12-cloud-amd64:amd64"),
    ],
)
def test_a_name_means_the_newest_package_of_its_series_and_flavour(
    log: Path, name: str, package: str
) -> None:
    folder = found(name)

    assert downloads(log) == [package]
    assert sorted(path.name for path in folder.iterdir()) == ["boot", "lib", "package"]


def test_a_name_that_was_fetched_asks_apt_nothing_more(log: Path) -> None:
    folder = found("debian")
    log.write_text("")

    assert found("debian") == folder
    assert log.read_text() == ""


def test_two_names_of_one_package_share_it(log: Path) -> None:
    assert found("debian") == found("debian:6.1")
    assert len(downloads(log)) == 1


def test_fetching_anew_takes_a_package_that_was_updated_under_its_name(
    log: Path, tmp_path: Path
) -> None:
    first = found("debian")
    (tmp_path / "VERSION").write_text("6-2\n")
    second = debian_kernel.fetch("debian", silent)

    assert first != second
    assert known_kernel("debian") == second


def test_a_kernel_that_was_removed_is_fetched_again(log: Path) -> None:
    cache.remove(found("debian").name)

    assert found("debian").is_dir()
    assert len(downloads(log)) == 2


def test_a_version_that_apt_does_not_know_is_told_with_those_it_knows(log: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        found("debian:5.10")

    assert str(caught.value) == (
        "kernel debian:5.10: apt knows no version 5.10 of flavour cloud; it knows"
        " debian:6.1, debian:6.1-generic, debian:6.12"
    )
    assert " update" in log.read_text()


def test_lists_are_fetched_into_the_cache_once_a_day(log: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            found("debian:5.10")
    updates = [line for line in log.read_text().splitlines() if line.endswith(" update")]

    assert len(updates) == 1
    assert f"Dir::State::lists={tmp_path}/cache/.apt/lists/" in updates[0]


def test_a_host_of_another_system_is_told_that_apt_knows_no_such_kernel(tmp_path: Path) -> None:
    (tmp_path / "KNOWN").write_text("")

    with pytest.raises(ConfigurationError, match="apt knows no kernel of Debian's"):
        found("debian:6.1")


def test_without_a_network_apts_own_words_are_told(log: Path) -> None:
    Path(f"{log}.offline").touch()

    with pytest.raises(ConfigurationError) as caught:
        found("debian:5.10")

    assert str(caught.value) == (
        "kernel debian:5.10: apt-get update failed: Failed to fetch x: no network"
    )


def test_a_package_that_the_archive_dropped_is_looked_for_in_newer_lists(log: Path) -> None:
    Path(f"{log}.gone").touch()

    with pytest.raises(ConfigurationError, match=r"download .* failed: Failed to fetch y: 404"):
        found("debian")

    assert len(downloads(log)) == 2
    assert not cache.entries()


def test_a_host_without_apt_is_told_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vmm.image.apt.find_tool", lambda name: None)

    with pytest.raises(ConfigurationError, match="no apt-get to get it: take --kernel host"):
        found("debian")


def test_a_name_that_points_out_of_the_cache_is_not_followed(tmp_path: Path) -> None:
    names = tmp_path / "cache" / debian_kernel.NAMES_FOLDER
    found("debian")
    for folder in (tmp_path / "outside", tmp_path / "cache" / "debian-kernel-"):
        folder.mkdir()
    (names / "debian").write_text("debian-kernel-/../../outside\n")

    assert known_kernel("debian") is None
