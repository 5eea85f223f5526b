"""``vmm snapshot`` and ``vmm run --restore``, with a guest that says one word before, one after."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.guest import bare_metal as bare
from vmm import Machine, Snapshot
from vmm.cli import main
from vmm.sandbox import jail
from vmm.sandbox.host import missing
from vmm.snapshot.folder import new_folder

DEADLINE = 120.0
MACHINE = ("--memory", "32M", "--no-rng")

pytestmark = pytest.mark.timeout(300)
needs_sandbox = pytest.mark.skipif(bool(missing()), reason=f"sandbox: {'; '.join(missing())}")
needs_jail = pytest.mark.skipif(bool(jail.missing()), reason=jail.missing())


def vmm(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmm", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A guest saved between its two words."""
    return save(tmp_path)


def save(tmp_path: Path, *options: str) -> Path:
    """Save a guest between its two words, while it counts down: mov ecx, n; 1: dec ecx; jnz 1b."""
    pause = b"\xb9" + (8_000_000).to_bytes(4, "little") + b"\x49\x75\xfd"
    code = bare.say("before\n") + pause + bare.say("after\n") + bare.out8(0xF4, 7) + bare.SPIN
    kernel = bare.write_kernel(tmp_path / "kernel", code)
    folder = tmp_path / "saved"
    done = vmm(
        "snapshot", str(folder), "--kernel", str(kernel), "--when", "before", *MACHINE, *options
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"before\n"
    assert done.stderr.decode().strip() == f"vmm: saved in {folder}"
    return folder


def test_a_saved_guest_goes_on_as_often_as_wanted(saved: Path) -> None:
    runs = [vmm("run", "--restore", str(saved)) for _ in range(2)]

    assert [(run.returncode, run.stdout) for run in runs] == [(7, b"after\n")] * 2
    assert all(b"the guest reported status 7" in run.stderr for run in runs)


def test_a_folder_that_is_there_is_not_written_to(saved: Path) -> None:
    again = vmm("snapshot", str(saved), "--when", "x")

    assert again.returncode == 2
    assert again.stderr.decode() == f"vmm: snapshot {saved}: exists; choose a new name\n"


def test_what_cannot_be_restored_is_one_line_and_status_2(saved: Path, tmp_path: Path) -> None:
    absent = vmm("run", "--restore", str(tmp_path / "absent"))
    changed = vmm("run", "--restore", str(saved), "--memory", "1G", "--no-rng")
    command = vmm("run", "--restore", str(saved), "--", "uname")
    (saved / "memory").write_bytes(b"")
    damaged = vmm("run", "--restore", str(saved))

    assert [run.returncode for run in (absent, changed, command, damaged)] == [2, 2, 2, 2]
    assert b"absent/state: No such file or directory" in absent.stderr
    assert b"the machine is as it was saved; take --memory, --rng away" in changed.stderr
    assert b"no agent in it runs commands" in command.stderr
    assert b"damaged: 0 bytes, 33554432 are expected" in damaged.stderr


def change(folder: Path, what: Callable[[Any], object]) -> None:
    """Rewrite the state of a folder, with a right checksum."""
    content = json.loads((folder / "state").read_bytes().partition(b"\n")[2])
    what(content["contents"])
    body = json.dumps(content).encode()
    head = f"pyvmm-snapshot 7 sha256={sha256(body).hexdigest()}\n"
    (folder / "state").write_bytes(head.encode() + body)


def refusal(*arguments: str) -> str:
    """Return the one line of ``vmm run`` for a folder that is at fault."""
    run = vmm("run", *arguments)
    assert run.returncode == 2, run.stderr
    assert run.stdout == b""
    [line] = run.stderr.decode().splitlines()
    return line


def test_a_disk_outside_of_the_folder_is_there_only_for_who_names_it(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    saved = save(tmp_path, "--disk", f"{image},volatile")

    line = refusal("--restore", str(saved))
    named = vmm("run", "--restore", str(saved), "--trust-disk", str(image))

    assert f"its disk 0 is '{image}', a file outside of the folder: name it" in line
    assert (named.returncode, named.stdout) == (7, b"after\n")


def test_a_crafted_folder_gets_no_file_of_the_host(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    saved = save(tmp_path, "--disk", str(image))

    change(saved, lambda contents: contents["disks"][0].update(data="/etc/shadow"))
    absolute = refusal("--restore", str(saved))
    change(saved, lambda contents: contents["disks"][0].update(data="../disk.img"))
    upward = refusal("--restore", str(saved))
    change(saved, lambda contents: contents["disks"][0].update(data="disk0"))
    (saved / "disk0").unlink()
    (saved / "disk0").symlink_to("/etc/shadow")
    link = refusal("--restore", str(saved))

    assert "disk 0 has no data of its own" in absolute
    assert "disk 0 has no data of its own" in upward
    assert "disk0: is a link" in link


@pytest.mark.parametrize("engine", ["native", "python"])
def test_positions_that_no_queue_has_end_nothing(tmp_path: Path, engine: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    saved = save(tmp_path, "--disk", str(image))
    features = 1 << 32 | 1 << 34
    areas = {"descriptor_area": 0x1000, "driver_area": 0x2000, "device_area": 0x3000}
    queue = {
        "index": 0,
        "layout": {"size": 16, **areas},
        "features": features,
        "next_avail": 0,
        "next_used": 60000,
        "unsignalled": 0,
        "outstanding": [],
        "breach": None,
    }

    def go_live(contents: Any) -> None:
        contents["config"]["ring_features"] = features
        transport = contents["state"]["transports"][0]
        transport["status"] = 0x0F
        transport["features"] |= {"accepted": features, "frozen": True}
        transport["device"]["driver_features"] = features
        registers = transport["queues"][0]["registers"] | {"size": 16, **areas, "ready": True}
        transport["queues"][0] = {"registers": registers, "queue": queue}

    change(saved, go_live)

    line = refusal("--restore", str(saved), "--engine", engine)
    assert line == "vmm: saved queue 0: next_used is 60000, must be below 32"
    queue["next_used"] = 0
    change(saved, go_live)
    assert vmm("run", "--restore", str(saved), "--engine", engine).returncode == 7


@pytest.mark.parametrize(
    ("part", "value"),
    [("sregs", {"bytes": "ff" * 312}), ("events", {"bytes": "ff" * 64}), ("cpuid", {"bytes": ""})],
)
def test_what_kvm_refuses_is_one_line(saved: Path, part: str, value: Any) -> None:
    change(saved, lambda contents: contents["state"]["vcpus"][0].update({part: value}))

    run = vmm("run", "--restore", str(saved), "--timeout", "5")

    assert run.returncode != 1
    assert run.stderr.decode().startswith("vmm: ")
    assert b"Traceback" not in run.stderr


def test_a_snapshot_is_for_its_owner_alone(saved: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (saved, *saved.iterdir())}

    assert modes == {"saved": 0o700, "memory": 0o600, "state": 0o600}


def test_memory_that_is_cut_off_while_a_machine_runs_is_told(saved: Path) -> None:
    with Snapshot.load(saved) as snapshot, Machine.restore(snapshot) as machine:
        os.truncate(saved / "memory", (32 << 20) - 1)  # where the guest has nothing

        assert "the memory file of the snapshot was cut off" in machine.describe()[-1]


def nothing_saved(tmp_path: Path, code: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Have a guest saved when it prints what it never does."""
    kernel = str(bare.write_kernel(tmp_path / "kernel", bare.say("up\n") + code + bare.SPIN))
    folder = tmp_path / "saved"
    done = vmm("snapshot", str(folder), "--kernel", kernel, "--when", "never", *MACHINE, *options)
    assert not folder.exists()
    assert done.stderr.startswith(
        b"vmm: nothing is saved: the guest ended before 'never' was printed\n"
    )
    assert b"vmm:   last console lines:\nvmm:     up\n" in done.stderr
    return done


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        (bare.out8(0xF4, 7), 7, b"the guest reported status 7"),
        (bare.out8(0xF4, 0), 125, b"the guest reported status 0"),
        (bare.HALT_FOR_EVER, 126, b"every vCPU halted for ever with interrupts off"),
        (bare.out8(0x505, 1), 121, b"the guest's kernel panicked: it gave no reason"),
    ],
)
def test_a_guest_that_ends_before_it_is_saved_ends_the_wait(
    tmp_path: Path, code: bytes, status: int, message: bytes
) -> None:
    done = nothing_saved(tmp_path, code)

    assert done.returncode == status
    assert b"\nvmm: " + message in done.stderr


def test_a_guest_that_is_not_where_it_is_saved_in_time_is_ended(tmp_path: Path) -> None:
    done = nothing_saved(tmp_path, b"", "--timeout", "0.3")

    assert done.returncode == 124
    assert b"vmm: the guest made no end within its time of 0.3 s\n" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait_for_a_guest_to_save(tmp_path: Path, number: signal.Signals) -> None:
    kernel = str(bare.write_kernel(tmp_path / "kernel", bare.say("up\n") + bare.SPIN))
    folder = str(tmp_path / "saved")
    command = [sys.executable, "-m", "vmm", "snapshot", folder, "--kernel", kernel, *MACHINE]
    with subprocess.Popen(
        [*command, "--when", "never"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert errors.endswith(f"vmm: interrupted by {number.name}\n".encode())
    assert not os.path.exists(folder)


# Confined


@contextmanager
def waiting(tmp_path: Path, *options: str) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """Give a command whose guest is up and never saved, and the process that has the guest."""
    kernel = str(bare.write_kernel(tmp_path / "kernel", bare.say("up\n") + bare.SPIN))
    command = [sys.executable, "-m", "vmm", "snapshot", str(tmp_path / "saved"), "--kernel", kernel]
    with subprocess.Popen(
        [*command, "--when", "never", *MACHINE, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        guest = next(one for one in children if len(os.listdir(f"/proc/{one}/task")) > 1)
        try:
            yield process, int(guest)
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE)


@needs_sandbox
def test_process_of_a_guest_to_save_is_confined(tmp_path: Path) -> None:
    with waiting(tmp_path, "--sandbox=require") as (_, guest):
        found = [
            dict(re.findall(r"(\w+):\s+(\d+)", status.read_text()))
            for status in Path(f"/proc/{guest}/task").glob("*/status")
        ]
        opened = [os.readlink(one) for one in Path(f"/proc/{guest}/fd").iterdir()]

    assert len(found) > 2
    assert {(one["NoNewPrivs"], one["Seccomp"]) for one in found} == {("1", "2")}
    assert "/dev/kvm" not in opened
    assert sorted(os.path.basename(one) for one in opened if str(tmp_path) in one) == [
        "memory",
        "state",
    ]


@needs_sandbox
def test_nothing_that_saving_does_is_refused(tmp_path: Path) -> None:
    names = ("raw", "volatile", "fixed")
    raw, volatile, fixed = (tmp_path / name for name in names)
    for one in (raw, volatile, fixed):
        one.write_bytes(one.name.encode().ljust(1 << 17, b"."))
    disks = (f"--disk={raw}", f"--disk={volatile},volatile", f"--disk={fixed},ro")
    code = bare.say("before\n") + bare.SPIN
    kernel = str(bare.write_kernel(tmp_path / "kernel", code))

    done = vmm(
        *("snapshot", str(tmp_path / "saved"), "--kernel", kernel, "--when", "before"),
        *("--sandbox=log", *MACHINE, *disks),
    )

    told = done.stderr.decode().splitlines()
    told = [one for one in told if "/sys/devices/system/cpu/" not in one]  # of the C library
    assert told == [f"vmm: saved in {tmp_path}/saved"]
    assert sorted(os.listdir(tmp_path / "saved")) == ["disk0", "disk1", "memory", "state"]
    with Snapshot.load(tmp_path / "saved", trust_disks=[volatile, fixed]) as snapshot:
        for disk, name in zip(snapshot.disks, names, strict=True):
            data = bytearray(9)
            disk.readv([memoryview(data)], 0)
            assert data == name.encode().ljust(9, b".")


@needs_sandbox
@needs_jail
def test_guest_saved_in_the_jail_goes_on(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    jailed = ("--jail", "--jail-limit=none")
    saved = save(tmp_path, "--sandbox=require", *jailed, f"--disk={image}")

    again = vmm("run", "--sandbox=require", *jailed, "--restore", str(saved))

    assert (again.returncode, again.stdout) == (7, b"after\n")


@needs_jail
def test_process_of_a_guest_to_save_is_in_the_jail(tmp_path: Path) -> None:
    with waiting(tmp_path, "--jail", "--jail-limit=none") as (_, guest):
        root = os.listdir(f"/proc/{guest}/root/")

    assert root == []


def test_guest_whose_process_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with waiting(tmp_path) as (process, guest):
        os.kill(guest, signal.SIGKILL)
        process.communicate(timeout=DEADLINE)

    assert process.returncode == 128 + signal.SIGKILL
    assert os.listdir(tmp_path) == ["kernel"]


def test_image_that_is_replaced_while_the_guest_runs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image, other = tmp_path / "disk.img", tmp_path / "other"
    for one in (image, other):
        one.write_bytes(bytes(4096))
    kernel = bare.write_kernel(tmp_path / "kernel", bare.say("up") + bare.SPIN)
    monkeypatch.setattr(
        "vmm.cli.snapshot.run_confined", lambda work: [other.rename(image), 0].pop()
    )

    status = main(
        ["snapshot", f"{tmp_path}/saved", f"--kernel={kernel}", f"--disk={image},ro", *MACHINE]
    )

    assert status == 2
    assert "disk.img: the file was replaced while the machine ran" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["disk.img", "kernel"]


def test_folder_that_cannot_be_made_is_told_before_the_guest_boots(tmp_path: Path) -> None:
    kernel = str(bare.write_kernel(tmp_path / "kernel", bare.say("up") + bare.SPIN))

    done = vmm("snapshot", f"{kernel}/saved", "--kernel", kernel, "--when", "up", *MACHINE)

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"vmm: snapshot {kernel}/saved: no folder can be in a file\n"


def test_restored_machine_is_saved_as_it_is(saved: Path, tmp_path: Path) -> None:
    with (
        Snapshot.load(saved) as snapshot,
        Machine.restore(snapshot) as machine,
        new_folder(tmp_path / "again") as folder,
    ):
        with machine.hardware.ram.view(1 << 24, 4) as view:
            view[:] = b"here"
        machine.save(machine.saving_to(folder))

    with Snapshot.load(tmp_path / "again") as again:
        assert os.pread(again.memory, 4, 1 << 24) == b"here"
    assert vmm("run", "--restore", str(tmp_path / "again")).stdout == b"after\n"


def test_file_of_a_port_is_named_where_the_guest_is_restored(tmp_path: Path) -> None:
    refused = vmm("snapshot", str(tmp_path / "x"), "--port", f"log={tmp_path}/log", "--when", "x")
    saved = save(tmp_path, "--port", "log")
    file = tmp_path / "log"
    restored = vmm("run", "--restore", str(saved), "--port", f"log={file}")
    unknown = vmm("run", "--restore", str(saved), "--port", f"out={tmp_path}/out")

    assert [run.returncode for run in (refused, restored, unknown)] == [2, 7, 2]
    assert b"a snapshot keeps no file" in refused.stderr
    assert file.read_bytes() == b""
    assert unknown.stderr == b"vmm: --port out: the guest's console ports are: log\n"
