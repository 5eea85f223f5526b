"""What is typed at a guest waits until the guest takes it, in order and without loss."""

import threading

from vmm.console.console import GuestConsole


class SlowPort:
    """A port with room for what it was last given leave to take."""

    def __init__(self) -> None:
        self.room = 0
        self.taken = bytearray()

    def receive(self, data: bytes) -> int:
        accepted = data[: self.room]
        self.taken += accepted
        self.room -= len(accepted)
        return len(accepted)


def test_input_waits_for_a_port() -> None:
    console, port = GuestConsole(), SlowPort()
    port.room = 100
    console.send("early ")
    console.connect(port.receive)
    console.send(b"late")

    assert port.taken == b"early late"


def test_input_goes_on_when_there_is_room() -> None:
    console, port = GuestConsole(), SlowPort()
    console.connect(port.receive)
    console.send("0123456789")
    for _ in range(4):
        port.room = 3
        console.feed()

    assert port.taken == b"0123456789"


def test_text_goes_as_utf8() -> None:
    console, port = GuestConsole(), SlowPort()
    port.room = 10
    console.connect(port.receive)
    console.send("é")

    assert port.taken == b"\xc3\xa9"


def test_offered_input_is_taken_only_behind_what_waits() -> None:
    console, port = GuestConsole(), SlowPort()
    console.connect(port.receive)
    console.send("first")
    port.room = 4

    assert console.receive(b"second") == 0
    console.feed()
    port.room = 4
    assert console.receive(b"second") == 0
    console.feed()
    assert console.receive(b"second") == 3
    assert port.taken == b"firstsec"


def test_whoever_offered_too_much_hears_of_space_once_nothing_waits() -> None:
    console, port = GuestConsole(), SlowPort()
    console.connect(port.receive)
    heard: list[bytes] = []
    console.on_space = lambda: heard.append(bytes(port.taken))
    console.send("abc")
    assert heard == []

    port.room = 3
    console.feed()

    assert heard == [b"abc"]


def test_two_senders_do_not_mix_within_a_line() -> None:
    console, port = GuestConsole(), SlowPort()
    port.room = 1 << 20
    console.connect(port.receive)
    lines = [b"a" * 63 + b"\n", b"b" * 63 + b"\n"]

    def send(line: bytes) -> None:
        for _ in range(500):
            console.send(line)

    senders = [threading.Thread(target=send, args=(line,)) for line in lines]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert sorted(bytes(port.taken).splitlines(keepends=True)) == sorted(lines * 500)
