"""``vmm trace`` and ``vmm run --trace`` with a real guest, confined as by default."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.testing import Guest, GuestConfig
from vmm.trace import Cassette, CassetteError

pytestmark = pytest.mark.timeout(1200)

DEADLINE = "900"


def vmm(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vmm", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=1000)


def test_a_guest_is_traced_live_and_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "boot.json"
    script = "dd if=/dev/hwrng of=/dev/null bs=64 count=3"
    done = vmm(
        *("trace", "--timeout", DEADLINE, "--trace", str(file), "--filter", "!exit"),
        *("--", "sh", "-c", script),
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    story = [line.split(maxsplit=1)[1] for line in lines[1:] if line[:12].strip()]
    assert "MainThread               boot       --- the guest runs ---" in story
    assert any("entropy      status     ACKNOWLEDGE DRIVER" in line for line in story)
    assert any("entropy      features" in line and "VERSION_1" in line for line in story)
    assert any("run sh -c dd" in line for line in story)
    assert any("entropy/0    taken      chain" in line for line in story)
    assert "the guest reported status 0" in lines[-1]
    requests = [one for one in json.loads(file.read_text()) if one["name"] == "request"]
    assert len([one for one in requests if one["cat"] == "entropy"]) >= 3


def test_top_shows_rates_and_a_trace_for_perfetto_is_written_beside(tmp_path: Path) -> None:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

    file = tmp_path / "boot.pftrace"
    done = vmm("top", "--timeout", DEADLINE, "--trace", str(file), "--", "true")

    assert done.returncode == 0, done.stderr
    last = done.stdout.replace("\r", "").split("vmm top: ")[-1].splitlines()
    assert [line.split()[0] for line in last if line.startswith(("device", "queue", "vCPU"))] == [
        *("device", "queue", "vCPU"),
    ]
    assert any(line.startswith("vcpu-0") for line in last)
    trace = Trace()
    trace.ParseFromString(file.read_bytes())
    tracks = {one.track_descriptor.name for one in trace.packet}
    assert {"vCPUs", "vcpu-0", "console", "queue 1", "kicks", "interrupts", "boot"} <= tracks


def test_a_word_that_no_event_has_is_told_with_the_nearest(tmp_path: Path) -> None:
    done = vmm("trace", "--filter", "entropi status", "--", "true")
    assert done.returncode == 2
    assert "no event has the word 'entropi'; nearest are entropy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_trace_that_cannot_be_written_is_told_before_the_guest_runs(tmp_path: Path) -> None:
    done = vmm("run", "--trace", str(tmp_path / "no" / "t.txt"), "--", "true")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"vmm: --trace {tmp_path}/no/t.txt: No such file or directory"
    ]


@pytest.fixture
def guest_config(tmp_path: Path) -> GuestConfig:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    return GuestConfig(deadline=900, disks=(str(tmp_path / "disk"),), trace=True)


def test_a_test_asks_the_trace_and_a_cassette_compares_it(guest: Guest, tmp_path: Path) -> None:
    write = "dd if=/dev/zero of=/dev/vda bs=4096 count=3 seek=2 oflag=direct 2>/dev/null; sync"
    read = "dd if=/dev/vda of=/dev/null bs=4096 count=4 skip=8 iflag=direct 2>/dev/null"
    guest.sh(f"{write} /dev/vda")
    trace = guest.trace.select(lambda event: event.device == "block0")
    assert trace.count("status", after=0x0F) == 1
    assert trace.between("write", "flush").count(kind="write") == 3
    assert all(
        one.completed and one.interrupt for one in trace.requests if one.taken.kind == "write"
    )
    assert not guest.trace.select("breach | lost")

    for _ in range(2):
        with Cassette(tmp_path / "reads.txt", guest.machine, "block0"):
            guest.sh(read)
    lines = (tmp_path / "reads.txt").read_text().splitlines()
    assert lines[1:] == [
        f"0: read 8 sectors at {sector} [-16 +4096 +1] => 4097" for sector in (64, 72, 80, 88)
    ]
    again = Cassette(tmp_path / "reads.txt", guest.machine, "block0")
    with pytest.raises(CassetteError, match="8 sectors at 96"), again:
        guest.sh(read.replace("skip=8", "skip=9"))

    guest.unplug("block0")
    assert not guest.trace.after("block0 reset").select("block0 taken")
