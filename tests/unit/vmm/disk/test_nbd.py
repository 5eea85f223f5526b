"""Disks of NBD servers: what they give, and what becomes of requests when one dies or stalls."""

import errno
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.spec.threads import PATIENCE_SECONDS, wait_until
from tests.unit.vmm.disk.nbd import SIZE, Nbdkit, children_named, nbdkit, skip_without_nbd
from virtio.block import Block
from virtio.errors import ConfigurationError
from vmm.disk.disk import DiskConfig
from vmm.disk.nbd.disk import NbdDisk
from vmm.disk.nbd.place import NbdPlace
from vmm.disk.overlay import BaseDisk
from vmm.disk.place import absolute
from vmm.snapshot.disks import FileIdentity, SavedDisk, check_disks, files_of, origins


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nbdkit]:
    with nbdkit(tmp_path) as running:
        yield running


def read(disk: BaseDisk, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    disk.readv([memoryview(buffer)], offset)
    return bytes(buffer)


def write(disk: BaseDisk, offset: int, data: bytes) -> None:
    disk.writev([memoryview(data)], offset)


class Caller(threading.Thread):
    """Makes a call on a thread, and keeps what it raised."""

    def __init__(self, call: object, *arguments: object) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._arguments = arguments
        self.result: object = None
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        assert callable(self._call)
        try:
            self.result = self._call(*self._arguments)
        except OSError as error:
            self.error = error

    def wait(self) -> None:
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive()


class TestPlace:
    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("nbd://host", NbdPlace("host")),
            ("nbd://host/", NbdPlace("host")),
            ("nbd://host:9/a%20b/c", NbdPlace("host", 9, export="a b/c")),
            ("nbd://[::1]:10810/x", NbdPlace("::1", 10810, export="x")),
            ("nbd+unix:///?socket=/run/s", NbdPlace(path="/run/s")),
            ("nbd+unix:///e?socket=s%3F", NbdPlace(path="s?", export="e")),
        ],
    )
    def test_uris_are_read_and_written(self, url: str, place: NbdPlace) -> None:
        assert NbdPlace.parse(url) == place
        assert NbdPlace.parse(place.url) == place

    @pytest.mark.parametrize(
        "url",
        [
            "nbd://",
            "nbd:///export",
            "nbd://host:0/",
            "nbd://host:70000/",
            "nbd://host:x/",
            "nbd://user@host/",
            "nbd://host/?socket=x",
            "nbd://host/#x",
            "nbd+unix:///",
            "nbd+unix:///?socket=",
            "nbd+unix://host/?socket=x",
            "nbd+unix:///?socket=x&tls=1",
            "nbd+unix:///%00?socket=x",
            "nbd+tcp://host/",
            "nbd://[::1/",
            "nbd://host/" + "x" * 5000,
        ],
    )
    def test_others_are_refused_with_the_form(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match=r"must be nbd://HOST\[:PORT\]/EXPORT"):
            NbdPlace.parse(url)

    def test_tls_is_refused_by_its_name(self) -> None:
        with pytest.raises(ConfigurationError, match="TLS is not offered"):
            DiskConfig.parse("nbds://host/x").open()

    def test_the_policy_is_for_servers_alone(self) -> None:
        parsed = DiskConfig.parse("nbd://h/x,on-error=wait,timeout=5,ro")
        assert (parsed.on_error, parsed.timeout, parsed.read_only) == ("wait", 5, True)
        with pytest.raises(ConfigurationError, match="are for an NBD server"):
            DiskConfig.parse("file,on-error=wait")
        with pytest.raises(ConfigurationError, match="must be fail or wait"):
            DiskConfig.parse("nbd://h/x,on-error=stop")
        with pytest.raises(ConfigurationError, match="timeout=0"):
            DiskConfig.parse("nbd://h/x,timeout=0")


class TestOpening:
    def test_nobody_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="no NBD server there: No such file"):
            DiskConfig(f"nbd+unix:///?socket={tmp_path}/absent").open()

    def test_a_port_where_nobody_listens_is_told(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(ConfigurationError, match="no NBD server there: Connection refused"):
            DiskConfig(f"nbd://127.0.0.1:{port}/").open()

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vmm.disk.nbd import library

        library.library.cache_clear()
        monkeypatch.setattr(library, "NAME", "libnbd-that-is-not-there.so")
        with (
            socket.create_server(("127.0.0.1", 0)) as listening,
            pytest.raises(ConfigurationError, match="libnbd is needed: apt install libnbd0"),
        ):
            DiskConfig(f"nbd://127.0.0.1:{listening.getsockname()[1]}/").open()

    def test_a_server_of_something_else_is_told(self) -> None:
        skip_without_nbd()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"nbd://127.0.0.1:{listening.getsockname()[1]}/"
            caller = Caller(_refusal, url)
            with listening.accept()[0] as peer:
                peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                caller.wait()
        assert "the NBD server: " in str(caller.result)

    def test_an_export_that_the_server_does_not_have_is_told(self, tmp_path: Path) -> None:
        options = ("--filter=exportname",)
        parameters = ("exportname=disk", "exportname-strict=true")
        with nbdkit(tmp_path, *options, parameters=parameters) as server:
            refused = str(_refusal(f"nbd+unix:///other?socket={server.socket}"))
            opened = DiskConfig(f"nbd+unix:///disk?socket={server.socket}").open()
            opened.close()
        assert refused.startswith(f"disk nbd+unix:///other?socket={server.socket}: the NBD server")

    def test_a_read_only_export_wants_ro(self, tmp_path: Path) -> None:
        with nbdkit(tmp_path, "--readonly") as server:
            assert "add ',ro'" in str(_refusal(server.url))
            with DiskConfig(server.url, read_only=True).open() as disk:
                assert disk.read_only
                assert read(disk, 0, 512) == b"\x11" * 512

    def test_the_guest_gets_the_blocks_of_the_export(self, tmp_path: Path) -> None:
        blocks = ("blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=1M")
        with (
            nbdkit(tmp_path, "--filter=blocksize-policy", parameters=blocks) as server,
            DiskConfig(server.url).open() as disk,
        ):
            assert Block(disk).blk_size == 4096
            write(disk, 4096, b"x" * (3 << 20))
            assert read(disk, 0, 4 << 20)[:8192] == b"\x11" * 4096 + b"x" * 4096
            with pytest.raises(ConfigurationError, match="has blocks of 4096"):
                Block(disk, block_size=512)


def _refusal(url: str) -> ConfigurationError | None:
    try:
        DiskConfig(url).open().close()
    except ConfigurationError as error:
        return error
    return None


class TestData:
    def test_what_is_written_is_read_and_on_the_server(self, server: Nbdkit) -> None:
        with DiskConfig(server.url).open() as disk:
            data = os.urandom(3 << 20)
            disk.writev([memoryview(data)[:1000], memoryview(data)[1000:]], 512)
            disk.flush()
            two = [bytearray(1 << 20), bytearray(2 << 20)]
            disk.readv([memoryview(one) for one in two], 512)

            assert disk.size_bytes == SIZE
            assert b"".join(two) == data
            assert server.file.read_bytes()[512 : 512 + len(data)] == data

    def test_discards_and_zeroes_reach_the_server(self, server: Nbdkit) -> None:
        with DiskConfig(server.url).open() as disk:
            disk.discard(0, 1 << 20)
            disk.write_zeroes(2 << 20, 1 << 20, unmap=True)
            disk.write_zeroes(3 << 20, 4096, unmap=False)

            assert disk.can_unmap
            assert read(disk, 2 << 20, (1 << 20) + 4096) == bytes((1 << 20) + 4096)
            assert read(disk, (3 << 20) + 4096, 512) == b"\x11" * 512
            assert server.file.stat().st_blocks * 512 < SIZE

    def test_a_server_without_trim_and_zero_is_written_zeros(self, tmp_path: Path) -> None:
        with (
            nbdkit(tmp_path, "--filter=nozero", parameters=("zeromode=none",)) as server,
            DiskConfig(server.url).open() as disk,
        ):
            disk.write_zeroes(0, 3 << 20, unmap=True)
            assert read(disk, 0, SIZE) == bytes(3 << 20) + b"\x11" * (1 << 20)

    def test_an_error_of_the_server_is_an_error_of_the_request_alone(self, tmp_path: Path) -> None:
        failing = tmp_path / "failing"
        options = ("--filter=error",)
        parameters = ("error-pread=ENOSPC", "error-pread-rate=100%", f"error-file={failing}")
        with (
            nbdkit(tmp_path, *options, parameters=parameters) as server,
            DiskConfig(server.url).open() as disk,
        ):
            failing.touch()
            with pytest.raises(OSError, match="No space left") as raised:
                read(disk, 0, 512)
            failing.unlink()

            assert raised.value.errno == errno.ENOSPC
            assert read(disk, 0, 512) == b"\x11" * 512

    @pytest.mark.parametrize(("offset", "length"), [(-512, 512), (SIZE, 512)])
    def test_what_is_outside_is_refused(self, server: Nbdkit, offset: int, length: int) -> None:
        with DiskConfig(server.url).open() as disk, pytest.raises(OSError, match="outside"):
            read(disk, offset, length)

    def test_a_volatile_disk_leaves_the_export_as_it_was(self, server: Nbdkit) -> None:
        with DiskConfig(server.url, volatile=True).open() as disk:
            write(disk, 0, b"x" * 512)
            assert read(disk, 0, 1024) == b"x" * 512 + b"\x11" * 512
        assert server.file.read_bytes() == b"\x11" * SIZE

    def test_a_copy_of_a_written_export_keeps_the_moment(self, server: Nbdkit) -> None:
        with DiskConfig(server.url).open() as disk, disk.frozen() as frozen:
            write(disk, 0, b"x" * 512)
            assert read(frozen, 0, SIZE) == b"\x11" * SIZE

    def test_a_read_only_export_is_itself_the_copy_and_outlives_its_first_owner(
        self, server: Nbdkit
    ) -> None:
        with DiskConfig(server.url, read_only=True).open() as disk:
            frozen = disk.frozen()
        with frozen:
            assert isinstance(frozen, NbdDisk)
            assert read(frozen, 0, 512) == b"\x11" * 512


class TestLoss:
    def test_requests_fail_while_a_server_is_away_and_succeed_when_it_is_back(
        self, server: Nbdkit, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING), DiskConfig(server.url).open() as disk:
            read(disk, 0, 512)
            server.die()
            with pytest.raises(OSError, match="NBD server") as raised:
                read(disk, 0, 512)
            server.start()
            wait_until(lambda: _reads(disk))

        assert raised.value.errno == errno.EIO
        assert "the NBD server is lost" in caplog.text
        assert "the NBD server is back" in caplog.text

    def test_requests_that_wait_are_served_by_the_server_that_comes_back(
        self, server: Nbdkit
    ) -> None:
        with DiskConfig(server.url, on_error="wait").open() as disk:
            read(disk, 0, 512)
            server.die()
            writer = Caller(write, disk, 512, b"y" * 512)
            reader = Caller(read, disk, 0, 512)
            server.start()
            writer.wait()
            reader.wait()

            assert reader.result == b"\x11" * 512
            assert writer.error is None
            assert server.file.read_bytes()[512:1024] == b"y" * 512

    def test_a_server_that_stalls_is_an_error_after_its_time(self, server: Nbdkit) -> None:
        with DiskConfig(server.url, timeout=1).open() as disk:
            read(disk, 0, 512)
            server.stall()
            with pytest.raises(OSError, match="no answer within 1 s") as raised:
                read(disk, 0, 512)
            server.go_on()
            wait_until(lambda: _reads(disk))

        assert raised.value.errno == errno.EIO

    def test_requests_wait_for_a_server_that_stalls_for_long(self, server: Nbdkit) -> None:
        with DiskConfig(server.url, on_error="wait", timeout=1).open() as disk:
            read(disk, 0, 512)
            server.stall()
            reader = Caller(read, disk, 0, 512)
            wait_until(lambda: disk._server._connection is None)  # type: ignore[attr-defined]
            server.go_on()
            reader.wait()

            assert reader.result == b"\x11" * 512

    def test_closing_ends_all_waiting_and_leaves_nothing(self, server: Nbdkit) -> None:
        before = set(os.listdir("/proc/self/fd"))
        disk = DiskConfig(server.url, on_error="wait").open()
        read(disk, 0, 512)
        server.stall()
        waiting = [Caller(read, disk, 0, 512) for _ in range(4)]
        disk.close()
        for one in waiting:
            one.wait()
            assert one.error is not None
        disk.close()
        with pytest.raises(OSError, match="closed"):
            read(disk, 0, 512)

        wait_until(lambda: set(os.listdir("/proc/self/fd")) == before)
        wait_until(lambda: not children_named(server.url))

    def test_a_flush_fails_once_when_a_lost_server_may_have_lost_writes(
        self, server: Nbdkit
    ) -> None:
        with DiskConfig(server.url).open() as disk:
            write(disk, 0, b"x" * 512)
            server.die()
            server.start()
            wait_until(lambda: _reads(disk))
            with pytest.raises(OSError, match="writes were lost"):
                disk.flush()

    def test_a_flush_succeeds_after_a_loss_when_all_was_stable(self, server: Nbdkit) -> None:
        with DiskConfig(server.url).open() as disk:
            write(disk, 0, b"x" * 512)
            disk.flush()
            server.die()
            server.start()
            wait_until(lambda: _reads(disk))
            disk.flush()

    def test_an_export_that_comes_back_with_another_size_is_not_used(self, server: Nbdkit) -> None:
        with DiskConfig(server.url).open() as disk:
            read(disk, 0, 512)
            server.die()
            server.file.write_bytes(b"\x22" * SIZE * 2)
            server.start()
            with pytest.raises(OSError, match="NBD server"):
                read(disk, 0, 512)
            assert not _reads(disk)

    def test_a_copy_of_a_lost_server_fails_by_either_policy(self, server: Nbdkit) -> None:
        with DiskConfig(server.url, on_error="wait").open() as disk:
            read(disk, 0, 512)
            server.die()
            with pytest.raises(OSError, match="NBD server"):
                disk.frozen()


def _reads(disk: BaseDisk) -> bool:
    try:
        return len(read(disk, 0, 512)) == 512
    except OSError:
        return False


class TestSaved:
    """What a snapshot keeps of an export that nobody writes: its URI, which is opened again."""

    def test_a_kept_export_is_its_uri_and_is_connected_to_again(self, server: Nbdkit) -> None:
        config = DiskConfig(server.url, read_only=True)
        with config.open() as disk:
            (origin,) = origins([config], [disk])
            assert files_of([config], [disk]) == {}

        assert origin == FileIdentity(server.url, SIZE, "")
        with origin.open("snapshot", config) as again:
            assert read(again, 0, 512) == b"\x11" * 512

    def test_an_export_of_another_size_is_not_the_one_that_was_saved(self, server: Nbdkit) -> None:
        origin = FileIdentity(server.url, SIZE * 2, "")
        with pytest.raises(ConfigurationError, match="was changed since"):
            origin.open("snapshot", DiskConfig(server.url, read_only=True))

    @pytest.mark.parametrize("trusted", [False, True])
    def test_a_folder_names_no_server_that_the_user_has_not_named(self, trusted: bool) -> None:
        url = "nbd://storage:10809/disk"
        saved = SavedDisk(FileIdentity(url, SIZE, ""), "", ())
        configs = [DiskConfig(url, volatile=True)]

        with nullcontext() if trusted else pytest.raises(ConfigurationError, match="--trust-disk"):
            check_disks([saved], configs, "snapshot", {url} if trusted else set())

    def test_names_of_servers_are_good_in_every_folder(self, tmp_path: Path) -> None:
        assert absolute("nbd://Host/a b") == "nbd://host:10809/a%20b"
        assert absolute("nbd+unix:///x?socket=s") == f"nbd+unix:///x?socket={os.getcwd()}/s"
        assert absolute("file") == f"{os.getcwd()}/file"


def test_a_server_that_answers_all_at_once_is_connected_to(server: Nbdkit) -> None:
    for _ in range(30):
        DiskConfig(server.url).open().close()
