"""A debugger at guests of a few instructions: stops, steps, memory, and debuggers that go."""

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.guest import bare_metal as bare
from tests.guest.gdb_client import SECONDS, GdbClient, gdb, needs_gdb
from virtio.entropy import Entropy
from virtio.errors import ConfigurationError
from vmm.config import MachineConfig
from vmm.ending.ending import End
from vmm.machine import Machine
from vmm.x86 import is_emulated_host

Configure = Callable[[bytes], MachineConfig]

START = bare.LOAD_ADDRESS
DATA = 0x180_0000
NOP = b"\x90"
OUT = bytes.fromhex("66 ba f8 03 b0 41 ee")  # mov dx, 0x3f8; mov al, 'A'; out dx, al
STAC, CLAC = bytes.fromhex("0f 01 cb"), bytes.fromhex("0f 01 ca")
REPORT_3 = bare.out8(0xF4, 3) + bare.SPIN


@contextmanager
def debugged(config: MachineConfig, wait: str = "on") -> Iterator[tuple[Machine, str]]:
    """Give a machine that runs, and the address at which it awaits a debugger."""
    with Machine(config) as machine:
        machine.load()
        server = machine.debug(f"127.0.0.1:0,wait={wait}")
        machine.resume()
        yield machine, server.address


def test_the_guest_waits_for_the_debugger_before_its_first_instruction(
    bare_metal: Configure,
) -> None:
    with debugged(bare_metal(bare.say("up") + REPORT_3)) as (machine, address):
        with GdbClient(address) as debugger:
            stop = debugger.ask("?")
            where = debugger.position()
            said = machine.console.history()
            end = debugger.ask("vCont;c")
        ending = machine.wait(SECONDS)

    assert (stop, where, said, end) == ("T05thread:1;", START, b"", "W03")
    assert (ending.end, ending.reported) == (End.REPORTED, 3)


def test_a_step_is_one_instruction_whoever_executes_it(bare_metal: Configure) -> None:
    code = NOP + OUT + STAC + CLAC + bare.load32(0xC000_1000) + NOP + REPORT_3
    lengths = [1, 4, 2, 1, 3, 3, 5, 1]
    config = replace(bare_metal(code), devices=(Entropy,))
    with debugged(config) as (machine, address), GdbClient(address) as debugger:
        places = [START]
        for _ in lengths:
            assert debugger.ask("vCont;s:1") == "T05thread:1;"
            places.append(debugger.position())
        value = debugger.ask("p0")
        said = machine.console.history()

    assert [after - before for before, after in pairwise(places)] == lengths
    assert value == b"virt\0\0\0\0".hex()
    assert said == b"A"


@pytest.mark.parametrize("kind", ["swbreak", "hwbreak"])
def test_a_breakpoint_stops_before_the_instruction_and_again(
    bare_metal: Configure, kind: str
) -> None:
    loop = NOP * 3 + b"\xeb\xfb"  # 1: nop; nop; nop; jmp 1b
    number = ["swbreak", "hwbreak"].index(kind)
    place = f"{number},{START + 1:x},1"
    with debugged(bare_metal(loop)) as (_, address), GdbClient(address) as debugger:
        assert debugger.ask(f"Z{place}") == "OK"
        first = debugger.ask("c"), debugger.position()
        code = debugger.ask(f"m{START:x},5")
        assert debugger.ask(f"z{place}") == "OK"
        debugger.ask("vCont;s:1")
        assert debugger.ask(f"Z{place}") == "OK"
        second = debugger.ask("c"), debugger.position()

    assert first == second == (f"T05thread:1;{kind}:;", START + 1)
    assert code == loop.hex()


def test_going_on_from_a_hardware_breakpoint_gets_on(bare_metal: Configure) -> None:
    code = NOP * 4 + REPORT_3
    with debugged(bare_metal(code)) as (_, address), GdbClient(address) as debugger:
        assert debugger.ask(f"Z1,{START + 2:x},1") == "OK"
        stop = debugger.ask("c")
        end = debugger.ask("c")

    assert (stop, end) == ("T05thread:1;hwbreak:;", "W03")


def test_a_watchpoint_stops_behind_the_store(bare_metal: Configure) -> None:
    store = bare.store32(DATA, 7)
    code = bare.store32(DATA + 8, 1) + STAC + store + NOP * 4 + REPORT_3
    with debugged(bare_metal(code)) as (_, address), GdbClient(address) as debugger:
        assert debugger.ask(f"Z2,{DATA:x},4") == "OK"
        stop = debugger.ask("c")
        where = debugger.position()
        memory = debugger.ask(f"m{DATA:x},4")
        assert debugger.ask(f"z2,{DATA:x},4") == "OK"
        end = debugger.ask("c")

    assert stop == f"T05thread:1;watch:{DATA:x};"
    assert where == START + len(store) + len(STAC) + len(store)
    assert (memory, end) == ("07000000", "W03")


def test_a_host_that_cannot_watch_reads_says_so(bare_metal: Configure) -> None:
    with debugged(bare_metal(REPORT_3)) as (_, address), GdbClient(address) as debugger:
        answers = debugger.ask(f"Z3,{DATA:x},4"), debugger.ask(f"Z4,{DATA:x},4")

    assert answers == ("", "" if is_emulated_host() else "OK")


def test_an_int3_of_the_guests_own_is_the_guests(bare_metal: Configure) -> None:
    # Without an IDT its exception has nowhere to go.
    with debugged(bare_metal(NOP + b"\xcc" + REPORT_3)) as (machine, address):
        with GdbClient(address) as debugger:
            debugger.ask(f"Z0,{START:x},1")
            debugger.ask("c")
            debugger.ask(f"z0,{START:x},1")
            stop = debugger.ask("c")
            debugger.ask("D")
        ending = machine.wait(SECONDS)

    assert stop == "T06thread:1;"
    assert ending.end is End.TRIPLE_FAULT


def test_a_spinning_guest_is_interrupted_and_goes_on_from_where_it_was(
    bare_metal: Configure,
) -> None:
    with debugged(bare_metal(bare.say("up") + bare.SPIN), "off") as (machine, address):
        machine.console.wait_for("up", timeout=SECONDS)
        with GdbClient(address) as debugger:
            debugger.send("c")
            debugger.socket.sendall(b"\x03")
            stop = debugger.receive()
            where = debugger.position()

    assert stop == "T02thread:1;"
    assert where == START + len(bare.say("up"))


def test_registers_and_memory_that_are_written_are_the_guests(bare_metal: Configure) -> None:
    # mov dx, 0x3f8; mov al, bl; out dx, al; mov al, [DATA]; out dx, al
    code = bytes.fromhex("66 ba f8 03 88 d8 ee a0") + struct.pack("<I", DATA) + b"\xee" + REPORT_3
    with debugged(bare_metal(code)) as (machine, address):
        with GdbClient(address) as debugger:
            assert debugger.ask(f"P1={b'B'.hex()}00000000000000") == "OK"
            assert debugger.ask(f"M{DATA:x},1:{b'C'.hex()}") == "OK"
            assert debugger.ask(f"X{DATA + 1:x},1:D") == "OK"
            memory = debugger.ask(f"m{DATA:x},2")
            debugger.ask("c")
        said = machine.console.history()

    assert memory == b"CD".hex()
    assert said == b"BC"


def test_vector_registers_are_kept_by_the_guest(bare_metal: Configure) -> None:
    with debugged(bare_metal(NOP * 2 + REPORT_3)) as (_, address), GdbClient(address) as debugger:
        x87, xmm3 = "p18", "p2b"
        before = debugger.ask(x87), debugger.ask(xmm3)
        assert debugger.ask("P2b=" + "ab" * 16) == "OK"
        assert debugger.ask("P18=" + "00000000000000c00040") == "OK"  # 3.0
        assert debugger.ask("vCont;s:1") == "T05thread:1;"
        after = debugger.ask(x87), debugger.ask(xmm3)
        refused = debugger.ask("P12=0800000000000000")[:1]

    assert before == ("00" * 10, "00" * 16)
    assert after == ("00000000000000c00040", "ab" * 16)
    assert refused == "E"


def test_a_breakpoint_where_no_memory_is_has_an_error(bare_metal: Configure) -> None:
    with debugged(bare_metal(REPORT_3)) as (_, address), GdbClient(address) as debugger:
        answers = debugger.ask("Z0,f0000000,1"), debugger.ask("mf0000000,4")

    assert answers == ("E01", "E0e")


@pytest.mark.parametrize("word", ["", "D"])
def test_a_debugger_that_goes_leaves_a_guest_that_runs_without_breakpoints(
    bare_metal: Configure, word: str
) -> None:
    code = NOP * 4 + REPORT_3
    with debugged(bare_metal(code)) as (machine, address):
        with GdbClient(address) as debugger:
            debugger.ask(f"Z0,{START + 2:x},1")
            debugger.ask(f"Z1,{START + 3:x},1")
            debugger.ask("c")
            if word:
                assert debugger.ask(word) == "OK"
        ending = machine.wait(SECONDS)
        code_after = bytes(machine.hardware.ram.view(START, 4))

    assert ending.reported == 3
    assert code_after == NOP * 4


def test_a_second_debugger_is_sent_away_and_the_first_stays(bare_metal: Configure) -> None:
    with debugged(bare_metal(REPORT_3)) as (_, address), GdbClient(address) as debugger:
        debugger.ask("?")
        with GdbClient(address) as second, pytest.raises((EOFError, ConnectionError)):
            second.ask("?")
        end = debugger.ask("c")

    assert end == "W03"


def test_the_next_debugger_finds_the_guest_that_the_last_one_left(bare_metal: Configure) -> None:
    with debugged(bare_metal(bare.say("up") + bare.SPIN)) as (machine, address):
        for _ in range(3):
            with GdbClient(address) as debugger:
                assert debugger.ask("D") == "OK"
                with pytest.raises((EOFError, ConnectionError)):
                    debugger.receive()
        said = machine.console.wait_for("up", timeout=SECONDS)

    assert said == "up"


def test_a_crashed_guest_stays_until_its_debugger_goes(bare_metal: Configure) -> None:
    with debugged(bare_metal(bare.say("up") + bare.UNDEFINED)) as (machine, address):
        with GdbClient(address) as debugger:
            stop = debugger.ask("c")
            where = debugger.position()
            told = debugger.monitor("vcpus")
            end = debugger.ask("c")
        ending = machine.wait(SECONDS)

    assert (stop, end) == ("T06thread:1;", "W7a")
    assert where == START + len(bare.say("up"))
    assert told.startswith(f"vCPU 0: rip {where:#x} (kernel)")
    assert ending.end is End.TRIPLE_FAULT


def test_a_panicking_guest_is_held_at_its_word(bare_metal: Configure) -> None:
    pvpanic = bare.out8(0x505, 1)
    with debugged(bare_metal(pvpanic + bare.SPIN)) as (machine, address):
        with GdbClient(address) as debugger:
            stop = debugger.ask("c")
            debugger.ask("D")
        ending = machine.wait(SECONDS)

    assert stop == "T06thread:1;"
    assert ending.end is End.PANIC


def test_who_ends_the_guest_from_outside_waits_for_no_debugger(bare_metal: Configure) -> None:
    with debugged(bare_metal(bare.UNDEFINED)) as (machine, address), GdbClient(address) as debugger:
        debugger.ask("c")
        machine.end(End.INTERRUPTED)
        ending = machine.wait(SECONDS)

    assert ending.end is End.TRIPLE_FAULT


def test_each_processor_is_a_thread_that_goes_alone(bare_metal: Configure) -> None:
    config = replace(bare_metal(NOP * 4 + bare.SPIN), cpus=2)
    with debugged(config) as (_, address), GdbClient(address) as debugger:
        threads = debugger.ask("qfThreadInfo")
        second = bytes.fromhex(debugger.ask("qThreadExtraInfo,2")).decode()
        stop = debugger.ask("vCont;s:1")
        alive = debugger.ask("T2"), debugger.ask("T3")[:1]

    assert threads == "m1,2"
    assert second.startswith("vCPU 1: rip")
    assert (stop, alive) == ("T05thread:1;", ("OK", "E"))


def test_a_restored_guest_waits_for_the_debugger_where_it_was_saved(
    bare_metal: Configure,
) -> None:
    code = bare.say("up") + bare.SPIN
    with Machine(bare_metal(code)) as machine:
        machine.boot()
        machine.console.wait_for("up", timeout=SECONDS)
        snapshot = machine.snapshot()
    with snapshot, Machine.restore(snapshot) as clone:
        server = clone.debug("127.0.0.1:0")
        clone.resume()
        with GdbClient(server.address) as debugger:
            where = debugger.position()
            # mov al, 'x': the code is another from here on
            patch = (bare.out8(0xF4, 5) + bare.SPIN).hex()
            assert debugger.ask(f"M{where:x},{len(patch) // 2:x}:{patch}") == "OK"
            end = debugger.ask("c")

    assert where == START + len(bare.say("up"))
    assert end == "W05"


def test_a_snapshot_of_a_debugged_guest_has_no_breakpoints(bare_metal: Configure) -> None:
    config = bare_metal(NOP * 4 + bare.SPIN)
    with debugged(config) as (machine, address), GdbClient(address) as debugger:
        debugger.ask(f"Z0,{START + 2:x},1")
        with machine.snapshot() as snapshot, Machine.restore(snapshot) as clone:
            saved = bytes(clone.hardware.ram.view(START, 4))
        stop = debugger.ask("c")

    assert saved == NOP * 4
    assert stop == "T05thread:1;swbreak:;"


def test_garbage_is_answered_or_dropped_and_the_guest_stays_the_debuggers(
    bare_metal: Configure,
) -> None:
    with debugged(bare_metal(REPORT_3)) as (_, address), GdbClient(address) as debugger:
        debugger.socket.sendall(b"\0\xff$?#00$m0,\x03$$$}#}" + b"$" + b"A" * 40000)
        debugger.socket.sendall(b"#00+++-")
        debugger.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = debugger.ask("c")

    assert end == "W03"


def test_a_debugger_is_let_in_before_the_start_or_not_at_all(bare_metal: Configure) -> None:
    with Machine(bare_metal(bare.SPIN)) as machine:
        machine.boot()
        with pytest.raises(ConfigurationError, match="before the machine runs"):
            machine.debug("127.0.0.1:0")


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_a_run_lets_a_debugger_in_through_its_sandbox(tmp_path: Path, sandbox: str) -> None:
    kernel = bare.write_kernel(tmp_path / "kernel", NOP * 2 + bare.say("up") + bare.UNDEFINED)
    words = (
        f"--sandbox={sandbox}",
        "--memory=32M",
        "--timeout=100",
        "--gdb=0",
        f"--kernel={kernel}",
    )
    command = [sys.executable, "-m", "vmm", "run", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stderr is not None
        [address] = re.findall(r"target remote (\S+);", process.stderr.readline())
        with GdbClient(address) as debugger:
            assert debugger.ask("P2b=" + "ab" * 16) == "OK"
            assert debugger.ask(f"Z1,{START + 1:x},1") == "OK"
            assert debugger.ask(f"Z2,{DATA:x},4") == "OK"
            first = debugger.ask("c"), debugger.ask("vCont;s:1")
            with GdbClient(address) as second, pytest.raises((EOFError, ConnectionError)):
                second.ask("?")
            told = [debugger.monitor(one) for one in ("queues", "stats", "events", "memory")]
            crash = debugger.ask("c")
            registers = debugger.ask("g")
        said, report = process.communicate(timeout=SECONDS)

    assert first == ("T05thread:1;hwbreak:;", "T05thread:1;")
    assert all(told)
    assert (crash, len(registers) > 1000) == ("T06thread:1;", True)
    assert (said, process.returncode) == ("up", 122)
    assert "vmm: vCPU 0: triple fault" in report


@pytest.mark.parametrize("option", ["--sandbox=auto", "--sandbox=off", "--on-reboot=restart"])
def test_a_run_leaves_no_socket_behind(tmp_path: Path, option: str) -> None:
    kernel = bare.write_kernel(tmp_path / "kernel", REPORT_3)
    path = tmp_path / "g.sock"
    words = (option, "--memory=32M", "--timeout=100", f"--gdb=unix:{path},wait=off")
    command = [sys.executable, "-m", "vmm", "run", *words, f"--kernel={kernel}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)

    assert done.returncode == 3, done.stderr
    assert str(path) in done.stderr
    assert not path.exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("1234x", "--gdb '1234x': must be PORT, HOST:PORT or unix:PATH"),
        ("unix:/nowhere/s", "--gdb unix:/nowhere/s: No such file or directory"),
    ],
)
def test_a_place_at_which_nobody_can_listen_is_a_line(place: str, message: str) -> None:
    command = [sys.executable, "-m", "vmm", "run", "--kernel=/dev/null", f"--gdb={place}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)

    assert done.returncode == 2
    assert done.stderr.startswith(f"vmm: {message}")
    assert done.stderr.count("\n") == 1


@needs_gdb
def test_debians_gdb_breaks_steps_watches_and_asks_the_monitor(bare_metal: Configure) -> None:
    code = b"\xb8\x2a\0\0\0" + NOP * 3 + bare.store32(DATA, 7) + NOP * 3 + REPORT_3
    config = replace(bare_metal(code), devices=(Entropy,))
    with debugged(config) as (_, address):
        told = gdb(
            [
                f"target remote {address}",
                f"break *{START + 6}",
                "continue",
                "print $rax",
                "stepi",
                "print/x $pc",
                f"watch *(int *) {DATA}",
                "continue",
                "info threads",
                "print $ymm0",
                "print $cr0 & 1",
                f"print *(int *) {DATA}",
                "monitor queues",
                "monitor xp 0x1800000 4",
                "monitor nonsense",
                f"x/i {0xF000_0000}",
                "delete",
                "continue",
            ]
        )

    for pattern in (
        r"Breakpoint 1, 0x0*1000006 in",
        r"\$1 = 42",
        r"\$2 = 0x1000007",
        r"Old value = 0\nNew value = 7",
        r"\* 1 +Thread 1 \(vCPU 0: rip 0x1000012 \(kernel\)",
        r"\$3 = \{.*v2_int128 = \{0, 0\}\}",
        r"\$4 = 1",
        r"\$5 = 7",
        r"entropy0?: device type 4",
        r"0000000001800000  07 00 00 00",
        r"no command 'nonsense': there are help,",
        r"Cannot access memory at address 0xf0000000",
        r"exited with code 03",
    ):
        assert re.search(pattern, told), f"{pattern} is not in:\n{told}"
