"""``vmm kernel`` tells of the kernels that are at hand, fetches them, and removes them."""

from pathlib import Path

import pytest

from vmm.cli import main
from vmm.image import cache, debian_kernel


@pytest.fixture(autouse=True)
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Have kernels that come without a network; gives the names that were asked for."""
    monkeypatch.setenv("PYVMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    asked: list[str] = []

    def fetch(name: str, progress: object) -> Path:
        asked.append(name)
        release = "6.12.9+deb12-cloud-amd64" if "6.12" in name else "6.1.0-9-cloud-amd64"
        entry = cache.obtain(
            f"{debian_kernel.PREFIX}{release}-{cache.digest(release)}",
            lambda folder: (folder / "package").touch(),
        )
        debian_kernel._remember(name, entry.name)
        return entry

    monkeypatch.setattr(debian_kernel, "fetch", fetch)
    return asked


def listed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    capsys.readouterr()
    assert main(["kernel", "list"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    return [words for words in lines if words[0].startswith(("debian", "(no"))]


def test_fetched_kernels_are_listed_by_name_and_release(
    capsys: pytest.CaptureFixture[str], fetched: list[str]
) -> None:
    assert main(["kernel", "fetch", "debian", "debian:6.12"]) == 0

    assert capsys.readouterr().out.split() == [
        *("debian", "6.1.0-9-cloud-amd64", "debian:6.12", "6.12.9+deb12-cloud-amd64")
    ]
    assert listed(capsys) == [
        ["debian", "6.1.0-9-cloud-amd64"],
        ["debian:6.12", "6.12.9+deb12-cloud-amd64"],
    ]


def test_fetch_asks_again_for_what_is_there(fetched: list[str]) -> None:
    for _ in range(2):
        assert main(["kernel", "fetch", "debian"]) == 0

    assert fetched == ["debian", "debian"]


@pytest.mark.parametrize("name", ["debian:6.12", "6.12.9+deb12-cloud-amd64"])
def test_a_kernel_is_removed_by_its_name_or_its_release(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    main(["kernel", "fetch", "debian", "debian:6.12"])
    capsys.readouterr()

    assert main(["kernel", "remove", name]) == 0
    assert capsys.readouterr().out == "removed 6.12.9+deb12-cloud-amd64\n"
    assert listed(capsys) == [["debian", "6.1.0-9-cloud-amd64"]]


def test_all_fetched_kernels_are_removed_and_nothing_else(tmp_path: Path) -> None:
    main(["kernel", "fetch", "debian", "debian:6.12"])
    kept = cache.obtain("kernel-0123", lambda folder: (folder / "vmlinux").touch())

    assert main(["kernel", "remove", "--all"]) == 0
    assert [one.path for one in cache.entries()] == [kept]


def test_a_kernel_whose_name_is_gone_is_still_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["kernel", "fetch", "debian"])
    (tmp_path / "cache" / debian_kernel.NAMES_FOLDER / "debian").unlink()

    assert listed(capsys) == [["(no", "name"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fetch", "host"], "vmm: host: only kernels of Debian's are fetched"),
        (["fetch", "./vmlinux"], "vmm: ./vmlinux: only kernels of Debian's are fetched"),
        (["fetch", "debian:x"], "vmm: kernel 'debian:x': must be host, debian"),
        (["remove"], "vmm: vmm kernel remove: needs a NAME or --all"),
        (["remove", "debian:6.12"], "vmm: debian:6.12: no fetched kernel; vmm kernel list"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_with_status_2(
    capsys: pytest.CaptureFixture[str], fetched: list[str], words: list[str], message: str
) -> None:
    assert main(["kernel", *words]) == 2

    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not fetched
