"""Networks of a Linux guest: between guests, and to the host's."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmm import Machine, MachineConfig, Snapshot
from vmm.agent import Result
from vmm.net import NetConfig, Switch

pytestmark = pytest.mark.timeout(1200)

BOOT_DEADLINE = 900.0
DEADLINE = 300.0
FILE_BYTES = 128 << 10
SAVED_MAC = "02:00:00:00:00:aa"

# With an input that has no end: a sender ends when its peer says that it has nothing to send.
RECEIVE = "mkfifo /p; exec 3<> /p; nc -l -p 5000 <&3 > /f; wc -c /f; sha256sum /f"

SERVED = b"from the host's loopback\n"
# The host's loopback is at the address of the guest's gateway.
FETCH = "set -- $(ip route); wget -q -O - http://$3:8000/file"
# In a network namespace of its own: a way out, which nobody takes, and a server.
APART = """
import ctypes, os, subprocess, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x40000000):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
for words in (
    "link set lo up", "tuntap add up0 mode tap", "addr add 192.0.2.2/24 dev up0",
    "link set up0 up", "route add default via 192.0.2.1",
):
    if subprocess.run(["ip", *words.split()]).returncode:
        sys.exit(f"unshare: ip {words} fails here")
handler = partial(SimpleHTTPRequestHandler, directory=sys.argv[1])
server = ThreadingHTTPServer(("127.0.0.1", 8000), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
done = subprocess.run([sys.executable, "-m", "vmm", "run", *sys.argv[2:]])
sys.exit(done.returncode)
"""


@pytest.fixture(scope="module")
def snapshot() -> Iterator[Snapshot]:
    """A guest with a network card, idle."""
    config = MachineConfig(agent="init", console="virtio", nets=(NetConfig(mac=SAVED_MAC),))
    with Machine(config) as machine:
        machine.boot()
        machine.agent.wait_ready(BOOT_DEADLINE)
        saved = machine.snapshot()
    with saved:
        yield saved


def sh(machine: Machine, script: str) -> Result:
    """Run a script in a guest; it must succeed."""
    result = machine.agent.run(["sh", "-c", script], timeout=DEADLINE)
    assert result.returncode == 0, (result.stdout, result.stderr)
    return result


def test_two_restored_guests_talk_through_a_switch_that_loses_frames(snapshot: Snapshot) -> None:
    with Switch(loss=0.1, seed=20) as switch:
        network = NetConfig.on(switch)
        with (
            Machine.restore(snapshot, nets=(network,)) as one,
            Machine.restore(snapshot, nets=(network,)) as other,
        ):
            for number, machine in enumerate((one, other), 1):
                machine.resume()
                # Clones have one address; who wants two asks for it.
                sh(
                    machine,
                    f"ip link set eth0 address 02:00:00:00:00:0{number}\n"
                    f"ip addr add 10.0.0.{number}/24 dev eth0\n"
                    "ip link set eth0 up",
                )
            receiver = one.agent.start(["sh", "-c", RECEIVE])
            sh(one, "until netstat -ltn | grep -q :5000; do sleep 0.1; done")
            sent = sh(
                other,
                f"head -c {FILE_BYTES} /dev/urandom > /f; nc 10.0.0.1 5000 < /f;"
                " wc -c /f; sha256sum /f",
            )
            received = receiver.communicate(timeout=DEADLINE)

        assert received.stdout == sent.stdout
        assert switch.lost > 0


def test_restored_guest_announces_itself_with_its_old_address(snapshot: Snapshot) -> None:
    with Switch() as switch:
        port = switch.port()
        with Machine.restore(snapshot, nets=(NetConfig.on(switch),)) as machine:
            machine.resume()
            sh(machine, "ip addr add 10.0.0.1/24 dev eth0; ip link set eth0 up")
            second = machine.snapshot()
        port.frames()
        with second, Machine.restore(second, nets=(NetConfig.on(switch),)) as clone:
            clone.resume()
            # A gratuitous ARP: of Ethernet, from the card's address.
            announced = port.expect(lambda one: one[12:14] == b"\x08\x06", timeout=DEADLINE)

    assert announced[6:12] == bytes.fromhex(SAVED_MAC.replace(":", ""))


def test_cable_is_pulled_where_no_network_is_given(snapshot: Snapshot) -> None:
    with Machine.restore(snapshot) as machine:
        machine.resume()
        result = sh(machine, "ip link set eth0 up; cat /sys/class/net/eth0/carrier")

    assert result.stdout == "0\n"


def test_command_reaches_the_loopback_of_the_host(tmp_path: Path) -> None:
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    (tmp_path / "file").write_bytes(SERVED)
    packets = tmp_path / "packets"
    options = ["--net", f"user,pcap={packets}", "--timeout", str(DEADLINE)]

    done = subprocess.run(
        [sys.executable, "-c", APART, str(tmp_path), *options, "--", "sh", "-c", FETCH],
        capture_output=True,
        timeout=DEADLINE + 60,
    )

    if done.stderr.startswith(b"unshare:"):
        pytest.skip(done.stderr.decode().strip())
    assert (done.returncode, done.stdout) == (0, SERVED), done.stderr
    assert SERVED in packets.read_bytes()
