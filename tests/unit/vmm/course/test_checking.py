"""A reader's file can fail in any way: one line tells of it, and nothing of it stays."""

import signal
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError, HostError
from vmm.course.chapters import chapter
from vmm.course.checking import check

NUMBER = "2"


def checked(tmp_path: Path, text: str, deadline: float = 60) -> str | None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    return check(chapter(NUMBER), file, lambda text: None, deadline)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def find(:", "mine.py, line 1: SyntaxError: invalid syntax"),
        ("\n1 / 0", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("import nowhere_at_all", "line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        (
            "def find(slots, address):\n    return slots[99]",
            "line 2: IndexError: list index out of",
        ),
        ("open('/nowhere/at/all')", "line 1: FileNotFoundError"),
        ("raise SystemExit(0)", "ends the program"),
        ("import os; os._exit(0)", "mine.py ended the checker with status 0, at its start"),
        ("import os; os.kill(os.getpid(), 9)", "ended the checker by signal 9"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("find = 3", "find is int, must be find(slots, address)"),
        ("", "the file defines no find"),
    ],
)
def test_failure_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    found = checked(tmp_path, text)

    assert found is not None
    assert told in found
    assert "\n" not in found


@pytest.mark.parametrize("first", ["", "import os; os.closerange(3, 256)\n"])
def test_file_that_makes_no_end_is_ended(tmp_path: Path, first: str) -> None:
    found = checked(tmp_path, f"{first}while True: pass", deadline=1)

    assert found == "mine.py made no end within 1 s, at its start"


def test_nothing_that_a_file_started_stays(tmp_path: Path) -> None:
    text = f"""
import os, subprocess
child = subprocess.Popen(["sleep", "1000"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
os._exit(3)
"""
    assert "status 3" in str(checked(tmp_path, text, deadline=30))
    pid = int((tmp_path / "pid").read_text())

    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and signal.SIGKILL not in _pending(pid)


def _pending(pid: int) -> set[int]:
    words = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line
    )
    mask = int(words["ShdPnd"], 16) | int(words["SigPnd"], 16)
    return {number for number in range(1, 64) if mask >> number - 1 & 1}


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        check(chapter(NUMBER), tmp_path / "none.py", lambda text: None)


def test_file_may_be_of_any_name_and_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def find(slots, address): return 'near'")
    (tmp_path / "my file-1.py").write_text("from neighbour import find")

    found = check(chapter(NUMBER), tmp_path / "my file-1.py", lambda text: None)

    assert found is not None
    assert "'near'" in found


def test_modules_of_the_folder_one_stands_in_do_not_get_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vmm", "virtio", "struct", "mmap", "traceback"):
        (tmp_path / f"{name}.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)

    assert checked(tmp_path, "find = 3") == "find is int, must be find(slots, address)"


@pytest.mark.parametrize("number", ["0", "13", "-1", "x", "1.5", "\u0661", "9" * 5000])
def test_number_that_no_chapter_has_is_refused(number: str) -> None:
    with pytest.raises(ConfigurationError, match="must be 1 to"):
        chapter(number)


def test_host_without_kvm_is_not_the_readers_fault(tmp_path: Path) -> None:
    text = """
from vmm.course.lab import Lab
code = Lab.__init__.__code__
consts = ["/no/kvm" if one == "/dev/kvm" else one for one in code.co_consts]
Lab.__init__.__code__ = code.replace(co_consts=tuple(consts))
def find(slots, address): return 4096
"""
    with pytest.raises(HostError, match="/no/kvm"):
        checked(tmp_path, text)
