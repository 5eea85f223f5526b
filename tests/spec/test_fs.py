"""The file system device. VIRTIO 1.4 "File System Device"."""

import errno
import os
import struct
import time
from pathlib import Path

import pytest

from tests.spec.conftest import RigMaker
from tests.spec.devices import EVERY_RING
from tests.spec.fs import CONTENT, OneFile
from tests.spec.rig import Form, Rig
from virtio.errors import ConfigurationError
from virtio.fs import Fs
from virtio.testing import Used
from vmm.share.directory import HostDirectory

ROOM = 4096
INIT, LOOKUP, FORGET, GETATTR, OPEN, READ, INTERRUPT, UNKNOWN = 26, 1, 2, 3, 14, 15, 36, 9999
HIPRIO, REQUESTS = 0, 1


def message(
    opcode: int, node: int = 1, body: bytes = b"", *, order: str = "<", says: int | None = None
) -> bytes:
    length = 40 + len(body) if says is None else says
    return struct.pack(order + "IIQQIIIHH", length, opcode, 5, node, 0, 0, 0, 0, 0) + body


def init(order: str = "<") -> bytes:
    return message(INIT, 0, struct.pack(order + "IIII", 7, 37, 65536, 0) + bytes(48), order=order)


def read_body(size: int) -> bytes:
    return struct.pack("<QQIIQII", 7, 0, size, 0, 0, 0, 0)


def answer(used: Used, order: str = "<") -> tuple[int, int, int]:
    """Return length, error and unique; the length is what the device told the queue."""
    length, error, unique = struct.unpack_from(order + "IiQ", used.data)
    assert length == used.length
    return length, error, unique


@pytest.fixture
def system() -> OneFile:
    return OneFile()


@pytest.fixture
def rig(make_rig: RigMaker, system: OneFile, form: Form) -> Rig:
    """A live file system device; the session has begun."""
    rig = make_rig(Fs(system, "share", ring_features=EVERY_RING))
    rig.start(form=form)
    assert answer(rig.request(REQUESTS, ([init()], [16, 64])))[1] == 0
    return rig


@pytest.mark.spec("FS-01")
@pytest.mark.parametrize(
    ("tag", "image"),
    [
        ("src", b"src" + bytes(33)),
        ("t" * 36, b"t" * 36),
        ("größe", "größe".encode() + bytes(29)),
    ],
)
def test_the_tag_is_utf_8_padded_and_not_terminated_when_full(
    make_rig: RigMaker, system: OneFile, tag: str, image: bytes
) -> None:
    rig = make_rig(Fs(system, tag, queues=3))

    assert rig.config_image(40) == image + struct.pack("<I", 3)


@pytest.mark.spec("FS-01")
@pytest.mark.parametrize("tag", ["", "t" * 37, "ö" * 19, "a\0b"])
def test_a_tag_that_cannot_be_told_is_refused(system: OneFile, tag: str) -> None:
    with pytest.raises(ConfigurationError, match="share's tag"):
        Fs(system, tag)


@pytest.mark.spec("FS-01")
@pytest.mark.parametrize("queues", [0, 17])
def test_there_is_a_request_queue(system: OneFile, queues: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 16"):
        Fs(system, "share", queues=queues)


@pytest.mark.spec("FS-02")
def test_request_queues_follow_the_high_priority_queue(
    make_rig: RigMaker, system: OneFile, form: Form
) -> None:
    rig = make_rig(Fs(system, "share", queues=2, ring_features=EVERY_RING))
    rig.start(form=form)

    assert rig.present_queues() == [0, 1, 2]
    assert answer(rig.request(1, ([init()], [80])))[1] == 0
    assert answer(rig.request(2, ([message(GETATTR, 1, bytes(16))], [ROOM])))[:2] == (120, 0)


@pytest.mark.spec("FS-03")
def test_forgetting_is_served_while_reads_wait(rig: Rig, system: OneFile) -> None:
    system.held.clear()
    for _ in range(2):
        rig.add(REQUESTS, ([message(READ, 2, read_body(100))], [16, 100]))
    rig.serve()

    used = rig.request(HIPRIO, ([message(FORGET, 2, struct.pack("<Q", 3))], []))

    assert used.length == 0
    assert system.calls[-1] == "forget 2 3"
    assert rig.rings[REQUESTS].collect() == []
    system.held.set()
    end = time.monotonic() + 20
    came: list[Used] = []
    while len(came) < 2 and time.monotonic() < end:
        rig.loop.advance()
        came += rig.rings[REQUESTS].collect()
    assert [one.data[16 : one.length] for one in came] == [CONTENT] * 2


@pytest.mark.spec("FS-03")
def test_a_reset_does_not_wait_for_reads(rig: Rig, system: OneFile) -> None:
    system.held.clear()
    rig.add(REQUESTS, ([message(READ, 2, read_body(100))], [16, 100]))
    rig.serve()

    rig.driver.status = 0

    assert rig.driver.status == 0
    assert system.calls[-1] == "restart"
    system.held.set()


@pytest.mark.spec("FS-04")
@pytest.mark.parametrize("says", [0, 39, 57, 1 << 31, 0xFFFF_FFFF])
def test_a_length_that_the_buffers_do_not_have_is_refused(rig: Rig, says: int) -> None:
    request = message(GETATTR, 1, bytes(16), says=says)

    assert answer(rig.request(REQUESTS, ([request], [ROOM]))) == (16, -errno.EINVAL, 5)


@pytest.mark.spec("FS-04")
def test_what_stands_behind_the_length_is_not_part_of_the_request(rig: Rig) -> None:
    request = message(LOOKUP, 1, b"file\0and more", says=45)

    assert answer(rig.request(REQUESTS, ([request], [ROOM])))[:2] == (144, 0)


@pytest.mark.spec("FS-04")
@pytest.mark.parametrize("length", [1, 39])
def test_a_request_without_a_whole_header_has_no_answer(rig: Rig, length: int) -> None:
    used = rig.request(REQUESTS, ([message(GETATTR)[:length]], [ROOM]))

    assert used.length == 0


@pytest.mark.spec("FS-04")
@pytest.mark.parametrize("room", [0, 1, 15])
def test_a_request_without_room_for_an_answer_gets_none(rig: Rig, room: int) -> None:
    used = rig.request(REQUESTS, ([message(GETATTR, 1, bytes(16))], [room] if room else []))

    assert used.length == 0
    assert used.data == b"\xa5" * room


@pytest.mark.spec("FS-04")
def test_an_answer_that_has_no_room_is_an_error(rig: Rig) -> None:
    used = rig.request(REQUESTS, ([message(GETATTR, 1, bytes(16))], [16 + 103]))

    assert answer(used) == (16, -errno.EIO, 5)


@pytest.mark.spec("FS-04")
def test_an_operation_that_there_is_not_is_told_so(rig: Rig) -> None:
    assert answer(rig.request(REQUESTS, ([message(UNKNOWN)], [ROOM])))[1] == -errno.ENOSYS


@pytest.mark.spec("FS-04")
def test_the_byte_order_of_init_is_that_of_the_session(rig: Rig) -> None:
    begun = rig.request(REQUESTS, ([init(">")], [80]))
    assert answer(begun, ">") == (80, 0, 5)
    assert struct.unpack_from(">II", begun.data, 16) == (7, 37)

    found = rig.request(REQUESTS, ([message(LOOKUP, 1, b"file\0", order=">")], [ROOM]))
    assert answer(found, ">") == (144, 0, 5)
    assert struct.unpack_from(">Q", found.data, 16) == (2,)

    assert answer(rig.request(REQUESTS, ([init()], [80]))) == (80, 0, 5)


@pytest.mark.spec("FS-04")
def test_another_init_begins_anew(rig: Rig, system: OneFile) -> None:
    rig.request(REQUESTS, ([message(OPEN, 2, bytes(8))], [ROOM]))
    system.calls.clear()

    assert answer(rig.request(REQUESTS, ([init()], [80])))[1] == 0

    assert system.calls == ["restart"]


@pytest.mark.spec("FS-04")
def test_nothing_is_answered_before_init(make_rig: RigMaker, system: OneFile, form: Form) -> None:
    rig = make_rig(Fs(system, "share", ring_features=EVERY_RING))
    rig.start(form=form)

    used = rig.request(REQUESTS, ([message(GETATTR, 1, bytes(16))], [ROOM]))

    assert answer(used)[1] == -errno.EIO


@pytest.mark.spec("FS-04")
@pytest.mark.parametrize(("major", "minor", "told"), [(6, 99, -71), (7, 30, -71), (8, 0, 0)])
def test_another_version_is_told_ours(rig: Rig, major: int, minor: int, told: int) -> None:
    request = message(INIT, 0, struct.pack("<IIII", major, minor, 0, 0))

    used = rig.request(REQUESTS, ([request], [80]))

    assert answer(used)[1] == told
    assert told or struct.unpack_from("<I", used.data, 16) == (7,)


@pytest.mark.spec("FS-05")
@pytest.mark.parametrize("cut", [(16, 100), (1, 15, 3, 97), (116,)])
def test_reading_needs_no_window(rig: Rig, cut: tuple[int, ...]) -> None:
    used = rig.request(REQUESTS, ([message(READ, 2, read_body(100))], cut))

    assert answer(used) == (16 + len(CONTENT), 0, 5)
    assert used.data[16 : used.length] == CONTENT


@pytest.mark.spec("FS-06")
def test_the_guest_stays_inside_whatever_it_asks_for(
    make_rig: RigMaker, form: Form, tmp_path: Path
) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_text("not for the guest")
    (tmp_path / "inside" / "link").symlink_to("../secret")
    os.mkfifo(tmp_path / "inside" / "fifo")
    system = HostDirectory(str(tmp_path / "inside"), writable=True)
    rig = make_rig(Fs(system, "share", ring_features=EVERY_RING))
    rig.start(form=form)
    rig.request(REQUESTS, ([init()], [80]))

    def ask(opcode: int, node: int, body: bytes) -> tuple[int, Used]:
        used = rig.request(REQUESTS, ([message(opcode, node, body)], [ROOM]))
        return answer(used)[1], used

    for name in (b"..", b".", b"../secret", b"/etc/passwd", b"link/..", b""):
        assert ask(LOOKUP, 1, name + b"\0")[0] == -errno.EINVAL
    for name in (b"link", b"fifo"):
        error, used = ask(LOOKUP, 1, name + b"\0")
        assert error == 0
        [node] = struct.unpack_from("<Q", used.data, 16)
        assert ask(OPEN, node, bytes(8))[0] == -errno.ENXIO
        assert ask(LOOKUP, node, b"secret\0")[0] == -errno.ENOTDIR
    assert ask(GETATTR, 1 << 40, bytes(16))[0] == -errno.ESTALE
    rig.driver.status = 0
    system.close()
