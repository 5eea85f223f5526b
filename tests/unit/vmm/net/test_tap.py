"""Taps, in a network namespace of the test's own."""

import os
import subprocess
import sys

import pytest

# In a process that leaves the network of the host, where it may.
SCRIPT = """
import ctypes, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x40000000):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
if not os.access("/dev/net/tun", os.W_OK):
    sys.exit("no /dev/net/tun")
from tests.spec.net import header, ip_frame
from tests.unit.vmm.net.cards import *
from vmm.net.opening import close_network, open_network
from vmm.net.options import parse_net
from virtio.errors import Error

def up(name):
    subprocess.run(["ip", "link", "set", name, "up"], check=True)

def raw(name):
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    made.bind((name, 0x88B5))
    made.settimeout(60)
    return made
"""


@pytest.fixture(params=["native", "python"], autouse=True)
def use_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYVMM_ENGINE", request.param)


def in_namespace(script: str) -> list[str]:
    """Run Python in a network namespace of its own and return what it prints, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script], capture_output=True, text=True, timeout=100
    )
    if done.stderr.startswith(("unshare:", "no /dev/net/tun")):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_frames_go_both_ways() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0"))
up("t0")
host, card = raw("t0"), Card(tap, refuse=CTRL_RX)
card.send_frames(frame(MAC_B, MAC_A, 60), frame(MAC_B, MAC_A, 1514))
print([len(host.recv(4096)) for _ in range(2)])
host.send(frame(MAC_A, MAC_B, 100))
print([one[12:] == frame(MAC_A, MAC_B, 100) for one in card.got() if one[24:26] == b"\\x88\\xb5"])
print(tap.takes & 7)
""")

    assert lines == ["[60, 1514]", "[True]", "7"]


def test_kernel_finishes_what_the_guest_leaves() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0"))
up("t0")
subprocess.run(["ip", "addr", "add", "10.0.0.1/24", "dev", "t0"], check=True)
subprocess.run(["ip", "neigh", "add", "10.0.0.2", "lladdr", "02:00:00:00:00:01", "dev", "t0"],
    check=True)
server = socket.create_server(("10.0.0.1", 80))
mac = raw("t0").getsockname()[4]
card = Card(tap, refuse=CTRL_RX)
syn = bytearray(ip_frame(b"", to=mac, flags=0x02))
card.send(header(1, 0, 0, 0, 34, 16) + bytes(syn))
answers = [one for one in card.got() if one[24:26] == b"\\x08\\x00" and one[35] == 6]
print(len(answers), answers[0][0], hex(answers[0][12 + 47]))
""")

    # The answer of the host's TCP, SYN and ACK, which comes with its checksum left to the guest.
    assert lines == ["1 1 0x12"]


def test_offloads_follow_the_guest() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0"))
def features():
    told = subprocess.run(["ip", "-d", "-o", "link", "show", "t0"], capture_output=True, text=True)
    return tap._offer(0x07)
for mask in (0, 1, 7, 15, 0x2F, 0x6F, 0x4F, 0x66):
    tap.set_offloads(mask, 1)
print(features())
""")

    assert lines == ["True"]


def test_several_queues_and_those_in_use() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0,queues=3"))
up("t0")
host, card = raw("t0"), Card(tap, pairs=3)
print(len(tap.fds), card.bench.request([b"\\4\\0\\2\\0"], [1], queue=6).data)
card.bench.drivers[3].add([bytes(12) + frame(MAC_B, MAC_A)])
card.settle()
print(len(host.recv(4096)))
""")

    assert lines == ["3 b'\\x00'", "60"]


def test_tap_that_is_taken_or_of_another_kind_is_told() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0"))
subprocess.run(["ip", "tuntap", "add", "n0", "mode", "tun"], check=True)
for text in ("tap=t0", "tap=n0", "tap=lo"):
    try:
        open_network(parse_net(text))
    except Error as error:
        print(error)
""")

    assert [line.partition(": net ")[2].partition(":")[0] for line in lines] == [
        "tap=t0",
        "tap=n0",
        "tap=lo",
    ]
    assert "another program has it" in lines[0]


def test_descriptor_of_a_tap_is_taken_over() -> None:
    lines = in_namespace("""
made = open_network(parse_net("tap=t0"))
up("t0")
tap = open_network(parse_net(f"tap=fd:{made.fds[0]}"))
close_network(made)
host, card = raw("t0"), Card(tap)
card.send_frames(frame(MAC_B, MAC_A))
print(len(host.recv(4096)))
""")

    assert lines == ["60"]


def test_interface_that_is_deleted_pulls_the_cable() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0"))
up("t0")
card = Card(tap)
subprocess.run(["ip", "link", "del", "t0"], check=True)
card.settle()
print(card.net.link, card.send_frames(frame(MAC_B, MAC_A)))
""")

    assert lines == ["False 1"]


def test_packets_for_an_interface_that_is_down_are_gone() -> None:
    lines = in_namespace("""
tap = open_network(parse_net("tap=t0"))
card = Card(tap)
print(card.send_frames(frame(MAC_B, MAC_A)), card.net.link)
""")

    assert lines == ["1 True"]


def test_user_without_rights_is_told_what_to_do() -> None:
    if os.getuid():
        pytest.skip("only root can give its rights away")
    lines = in_namespace("""
os.setuid(65534)
try:
    open_network(parse_net("tap=t0"))
except Error as error:
    print(error)
""")

    assert lines in (
        [
            "TUNSETIFF failed: Operation not permitted (errno 1): net tap=t0: it is not this"
            " user's; as root: ip tuntap add t0 mode tap user 65534"
        ],
        [
            "open failed: Permission denied (errno 13): /dev/net/tun: load the kernel's module tun,"
            " or allow this user to open it"
        ],
    )
