"""Fuzz what a debugger may send: bytes of GDB's remote protocol, cut anywhere.

Input: a byte that says how often the stream is cut, then the stream. Whatever comes, every answer
is a packet that is not longer than the debugger was told, the machine is moved only by a word for
it, and what is kept of an unfinished packet is bounded.
"""

from typing import Final

from tests.unit.vmm.gdb.fake_target import FakeTarget
from vmm.gdb.packet import MAX_PACKET_BYTES, BadPacket, PacketReader, packet
from vmm.gdb.session import Session
from vmm.gdb.stop import Stop

_SINGLE: Final = (b"+", b"-", b"\x03")


def one_input(data: bytes) -> None:
    """Run one input."""
    if not data:
        return
    size, stream = 1 + data[0] * 4, data[1:]
    target = FakeTarget()
    session = Session(target, Stop(0), lambda text: text + "\n")
    reader = PacketReader()
    for at in range(0, len(stream), size):
        for one in reader.feed(stream[at : at + size]):
            if isinstance(one, bytes):
                _answer(session, target, one)
        assert len(reader._data) <= MAX_PACKET_BYTES + size, "an unfinished packet grows"


def _answer(session: Session, target: FakeTarget, one: bytes) -> None:
    if one in _SINGLE:
        if one == b"\x03":
            session.interrupt()
        return
    moves = len(target.moves)
    answer = session.answer(one[1:])
    if answer is not None:
        assert len(packet(answer)) <= MAX_PACKET_BYTES, "an answer is longer than was told"
        assert answer.count(b"$") == answer.count(b"#") == 0, "an answer is not escaped"
    if len(target.moves) > moves:
        assert one[1:2] in (b"c", b"C", b"s", b"S", b"v"), "the machine is moved by another word"
    again = list(PacketReader().feed(packet(answer or b"")))
    assert not any(isinstance(part, BadPacket) for part in again), "an answer is no packet"
