"""A snapshot in a folder: what is in it, who may read it, and what a crafted one cannot do."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.unit.vmm.snapshot.synthetic import DISK_BYTES, make_image, restore, take_snapshot
from virtio.errors import ConfigurationError, HostError
from vmm.disk.disk import DiskConfig
from vmm.snapshot import Snapshot
from vmm.snapshot.disks import freeze
from vmm.snapshot.folder import new_folder

ROOT = Path(__file__).parents[4]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "disk.img")


@pytest.fixture
def saved(tmp_path: Path, image: Path) -> Path:
    """The folder of a machine with a disk that is written, a volatile one and a read-only one."""
    written = make_image(tmp_path / "written.img")
    disks = (
        DiskConfig(str(written)),
        DiskConfig(str(image), volatile=True),
        DiskConfig(str(image), read_only=True),
    )
    with take_snapshot(*disks) as snapshot:
        snapshot.save(tmp_path / "saved")
    return tmp_path / "saved"


def change(folder: Path, what: Change) -> None:
    """Rewrite the state of a folder, with a right checksum."""
    content = json.loads((folder / "state").read_bytes().partition(b"\n")[2])
    what(content["contents"])
    body = json.dumps(content).encode()
    head = f"pyvmm-snapshot 7 sha256={sha256(body).hexdigest()}\n"
    (folder / "state").write_bytes(head.encode() + body)


def refusal(folder: Path, *trusted: Path) -> str:
    """Return the one line with which a folder is refused, when loaded or when restored."""
    with (
        pytest.raises(ConfigurationError) as caught,
        Snapshot.load(folder, trust_disks=trusted) as snapshot,
    ):
        restore(snapshot)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_what_was_saved_is_loaded(saved: Path, image: Path) -> None:
    with Snapshot.load(saved, trust_disks=[image]) as snapshot:
        restore(snapshot)
        first, second, third = (bytearray(16) for _ in range(3))
        for disk, data in zip(snapshot.disks, (first, second, third), strict=True):
            disk.readv([memoryview(data)], 4996)

    original = image.read_bytes()[4996:5012]
    assert first == second == original[:4] + b"written" + original[11:]
    assert third == original
    assert sorted(path.name for path in saved.iterdir()) == ["disk0", "disk1", "memory", "state"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_the_owner_can_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with take_snapshot() as snapshot:
            snapshot.save(tmp_path / "saved")
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"saved": 0o700, "memory": 0o600, "state": 0o600}


# Failed saves


def test_a_save_that_ran_out_of_space_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with take_snapshot() as snapshot:
        with monkeypatch.context() as patch:
            patch.setattr("vmm.snapshot.snapshot.write_state", full)
            with pytest.raises(ConfigurationError, match="saved: No space left on device"):
                snapshot.save(tmp_path / "new" / "saved")
        assert list(tmp_path.iterdir()) == []

        snapshot.save(tmp_path / "new" / "saved")
    assert (tmp_path / "new" / "saved" / "state").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_already_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "saved"
    make: dict[str, Callable[[], object]] = {
        "folder": path.mkdir,
        "file": path.touch,
        "link": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()

    with take_snapshot() as snapshot, pytest.raises(ConfigurationError, match="exists; choose"):
        snapshot.save(path)
    assert [one.name for one in tmp_path.iterdir()] == ["saved"]


KILLED = """
import os, signal, sys
from pathlib import Path
from vmm.snapshot.folder import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    os.close(folder.new_file("memory"))
    if sys.argv[2] == "wait":
        print("begun", flush=True)
        sys.stdin.readline()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_that_were_prepared_are_those_that_are_filled(tmp_path: Path) -> None:
    with new_folder(tmp_path / "saved") as folder:
        folder.prepare(["state"])
        os.close(folder._fd)  # as the sandbox does: nothing is opened in it any more
        with open(folder.new_file("state"), "wb") as file:
            file.write(b"whole")
        with pytest.raises(OSError, match="Bad file descriptor"):
            folder.new_file("memory")
        folder._fd = -1

    assert (tmp_path / "saved" / "state").read_bytes() == b"whole"


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(ConfigurationError, match="file/saved: no folder can be in a file"),
        new_folder(tmp_path / "file" / "saved"),
    ):
        pass


def test_what_a_killed_save_left_goes_with_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "saved", "die"], cwd=ROOT)
    assert [one.name[:12] for one in tmp_path.iterdir()] == [".unfinished-"]

    with take_snapshot() as snapshot:
        snapshot.save(tmp_path / "saved")
    assert [one.name for one in tmp_path.iterdir()] == ["saved"]


def test_a_save_that_is_at_work_and_others_files_stay(tmp_path: Path) -> None:
    names = {".unfinished-work", ".unfinished-0123456789abcdeX", "other", "saved"}
    names.add(".unfinished-0123456789abcdef-mine")
    for name in names - {"saved"}:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "second"), "wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as saving:
        assert saving.stdout is not None
        assert saving.stdout.readline() == b"begun\n"
        with take_snapshot() as snapshot:
            snapshot.save(tmp_path / "saved")
        saving.communicate(b"\n")
        assert saving.returncode == 0

    assert {one.name for one in tmp_path.iterdir()} == names | {"second"}


# Files of the host


def test_an_image_outside_of_the_folder_needs_to_be_named(saved: Path, image: Path) -> None:
    message = refusal(saved, saved / "disk.img", image.parent)

    assert f"its disk 1 is '{image}', a file outside of the folder" in message
    assert "--trust-disk FILE" in message


def test_a_folder_cannot_turn_its_disk_into_a_file_of_the_host(saved: Path, image: Path) -> None:
    def volatile(contents: dict[str, Any]) -> None:
        contents["config"]["disks"][0] |= {"volatile": True, "path": "/etc/shadow"}
        origin = {"path": "/etc/shadow", "size_bytes": 512, "content": ""}
        contents["disks"][0] = {"origin": origin, "data": "", "own": []}

    change(saved, volatile)

    assert "its disk 0 is '/etc/shadow', a file outside of the folder" in refusal(saved, image)


@pytest.mark.parametrize(
    "name",
    ["/etc/shadow", "../disk.img", "disk1", "memory", "state", "./disk0", "x\0y", ".", "a" * 300],
)
def test_a_disk_has_the_file_that_is_its_own(saved: Path, image: Path, name: str) -> None:
    change(saved, lambda contents: contents["disks"][0].update(data=name))

    assert "damaged" in refusal(saved, image)


@pytest.mark.parametrize("name", ["state", "memory", "disk0", "disk1"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "device link"])
def test_what_is_no_regular_file_is_refused(saved: Path, image: Path, name: str, kind: str) -> None:
    path, kept = saved / name, saved.parent / "kept"
    path.rename(kept)
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(kept),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "device link": lambda: path.symlink_to("/dev/zero"),
    }
    make[kind]()

    message = refusal(saved, image)

    assert message.startswith(f"snapshot {saved}/{name}: ")
    assert message.endswith(("is a link", "no regular file"))


@pytest.mark.parametrize("path", ["disk.img", "/", "/etc/../etc/shadow", "", "/x\0"])
def test_an_origin_has_a_whole_name(saved: Path, image: Path, path: str) -> None:
    def rename(contents: dict[str, Any]) -> None:
        contents["config"]["disks"][1]["path"] = path
        contents["disks"][1]["origin"]["path"] = path

    change(saved, rename)

    refusal(saved, image)


def test_an_image_that_was_changed_since_is_refused(saved: Path, image: Path) -> None:
    image.write_bytes(bytes(DISK_BYTES))

    assert f"{image} was changed since: take it again" in refusal(saved, image)


def test_another_image_of_the_same_size_and_time_is_refused(saved: Path, image: Path) -> None:
    status = image.stat()
    other = image.with_name("other")
    other.write_bytes(bytes(DISK_BYTES))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(image)

    assert f"{image} was changed since: take it again" in refusal(saved, image)


def test_a_copy_of_the_image_is_as_good_as_the_image(saved: Path, image: Path) -> None:
    copy = image.with_name("copy")
    copy.write_bytes(image.read_bytes())
    os.utime(copy, (1, 1))
    copy.rename(image)

    Snapshot.load(saved, trust_disks=[image]).close()


def test_an_image_that_was_replaced_meanwhile_cannot_be_saved(tmp_path: Path, image: Path) -> None:
    with take_snapshot(DiskConfig(str(image), volatile=True)) as snapshot:
        make_image(tmp_path / "other").rename(image)

        with pytest.raises(ConfigurationError, match="was replaced while the machine ran"):
            snapshot.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# What does not fit


def disk(number: int, **values: Any) -> Change:
    return lambda contents: contents["disks"][number].update(values)


def config(**values: Any) -> Change:
    return lambda contents: contents["config"].update(values)


def queue(**values: Any) -> Change:
    return lambda contents: contents["state"]["transports"][0]["queues"][0]["queue"].update(values)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (disk(1, own=[[0, 1 << 40]]), "cannot be its own"),
        (disk(1, own=[[1, 1], [0, 1]]), "cannot be its own"),
        (disk(1, own=[[0, 0]]), "cannot be its own"),
        (disk(1, own=[[True, 1]]), "disks[1].own[0][0] is True"),
        (disk(1, own=[[-1, 1]]), "disks[1].own[0][0] is -1, must be 0 to"),
        (disk(1, origin=None), "disk 1 has an origin, or none"),
        (disk(0, own=[[0, 1]]), "disk 0 has no data of its own"),
        (disk(1, data=""), "disk 1 has blocks without data"),
        (disk(1, data="disk0"), "disk 1 names 'disk0', which is no file"),
        (lambda contents: contents["disks"].pop(), "2 disks, it has 3"),
        (config(memory_bytes=8 << 20), "memory of 4194304 bytes, its machine has 8388608"),
        (config(memory_bytes=1 << 60), "memory of 1152921504606846976 bytes"),
        (config(memory_bytes=True), "config.memory_bytes is True"),
        (config(cpus=2), "1 processors, it has 2"),
        (config(cpus=1 << 40), "1099511627776 processors"),
        (config(ring_features=-1), "ring features -0x1"),
        (config(initrd={"bytes": "00"}), "nothing left to boot"),
        (config(devices=[[]]), "config.devices[0]"),
        (config(kernel="/boot/vmlinuz"), "kernel '/boot/vmlinuz': must be"),
        (config(kernel="debian"), "nothing left to boot"),
        (config(surprise=1), "has 'surprise'"),
        (config(rng=False), "5 virtio devices, it has 4"),
        (queue(next_used=9), "from next_used to next_avail are"),
        (queue(next_avail=1 << 16), "next_avail is 65536, must be 0 to 65535"),
        (queue(unsignalled=-1), "unsignalled is -1"),
        (lambda contents: contents.pop("memory"), "lacks memory of Contents"),
        (lambda contents: contents.update(devices=1), "0 makers of devices are given, 1 are"),
        (lambda contents: contents["memory"].update(data=[[0, 1 << 30]]), "bytes of memory at 0"),
        (lambda contents: contents["memory"].update(size_bytes=0), "memory of 0 bytes"),
        (lambda contents: contents["memory"].update(crc32=-1), "memory.crc32 is -1"),
        (
            lambda contents: contents["state"]["platform"]["serial"].update(scratch=256),
            "serial.scratch is 256",
        ),
        (lambda contents: contents["state"]["vcpus"].clear(), "0 processors, it has 1"),
        (
            lambda contents: contents["state"]["vcpus"][0].update(regs={"bytes": "00"}),
            "vcpus[0].regs has 1 items, must have 144",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(
    saved: Path, image: Path, what: Change, message: str
) -> None:
    change(saved, what)

    assert message in refusal(saved, image)


def test_an_own_state_that_is_too_deep_is_refused(saved: Path, image: Path) -> None:
    deep: Any = 0
    for _ in range(40):
        deep = [deep]
    change(saved, lambda contents: contents["state"]["transports"][0]["device"].update(x=deep))

    assert "nested more than 32 deep" in refusal(saved, image)


@pytest.mark.parametrize("size", [0, 512, DISK_BYTES + 512])
def test_a_disk_of_another_size_is_refused(saved: Path, image: Path, size: int) -> None:
    os.truncate(saved / "disk1", size)

    refusal(saved, image)


def test_a_disk_that_became_smaller_than_its_driver_knows_is_refused(
    saved: Path, image: Path
) -> None:
    os.truncate(saved / "disk0", 512)

    assert "capacity is 128 sectors, there are 1" in refusal(saved, image)


def test_a_disk_of_15_tib_takes_no_memory(saved: Path, image: Path) -> None:
    os.truncate(saved / "disk0", 15 << 40)

    with Snapshot.load(saved, trust_disks=[image]) as snapshot:
        restore(snapshot)


def test_no_room_for_the_copy_of_a_disk_is_the_hosts_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DiskConfig(str(make_image(tmp_path / "written.img")))

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with config.open() as disk, pytest.raises(HostError) as raised:
        freeze(config, disk)

    assert str(raised.value) == (
        f"copy failed: No space left on device (errno 28): disk {config.path}: no copy of it can be"
        " made among the temporary files"
    )
