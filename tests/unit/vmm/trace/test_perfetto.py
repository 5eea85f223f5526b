"""The file for Perfetto, read with the messages that its own project generated.

Where its trace processor is at hand (``PERFETTO_TRACE_PROCESSOR`` names the program) that reads the
file as well; no package registry has it.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.unit.vmm.trace.example import STORY
from vmm.trace.perfetto import PerfettoWriter
from vmm.trace.protobuf import fixed64, message, number, varint


def written() -> bytes:
    writer = PerfettoWriter()
    return writer.header(again=False) + writer.feed(STORY) + writer.end()


@pytest.fixture(scope="module")
def packets() -> Any:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

    trace = Trace()
    trace.ParseFromString(written())
    return list(trace.packet)


def slices(packets: Any) -> list[tuple[str, str, int, int, tuple[int, ...]]]:
    """Return track, name, begin, end and arrows of each slice, as a reader matches them."""
    names = {
        one.track_descriptor.uuid: one.track_descriptor.name
        for one in packets
        if one.HasField("track_descriptor")
    }
    parents = {
        one.track_descriptor.uuid: names.get(one.track_descriptor.parent_uuid, "")
        for one in packets
        if one.HasField("track_descriptor")
    }
    found = []
    open_slices: dict[int, list[Any]] = defaultdict(list)
    events = [one for one in packets if one.HasField("track_event")]
    for one in sorted(events, key=lambda one: one.timestamp):
        event = one.track_event
        track = f"{parents[event.track_uuid]} {names[event.track_uuid]}"
        if event.type == event.TYPE_SLICE_BEGIN:
            open_slices[event.track_uuid].append((track, one))
        elif event.type == event.TYPE_SLICE_END:
            track, begin = open_slices[event.track_uuid].pop()
            flows = tuple(begin.track_event.flow_ids)
            found.append((track, begin.track_event.name, begin.timestamp, one.timestamp, flows))
    assert not any(open_slices.values())
    return found


def test_a_request_is_one_slice_from_kick_to_interrupt_with_the_work_of_the_device_in_it(
    packets: Any,
) -> None:
    requests = [one[:4] for one in slices(packets) if one[0] == "block0 queue 0"]
    assert sorted(requests) == [
        ("block0 queue 0", "device", 11_000, 16_000),
        ("block0 queue 0", "device", 11_100, 15_000),
        ("block0 queue 0", "read 8 sectors at 8", 10_000, 17_000),
        ("block0 queue 0", "read 8 sectors at 8", 11_100, 17_000),
    ]


def test_arrows_lead_from_the_kick_over_the_request_to_the_interrupt(packets: Any) -> None:
    flows = {name: flows for _, name, begin, _, flows in slices(packets) if begin != 11_100}
    first = flows["read 8 sectors at 8"]
    assert len(first) == 1
    assert flows["kick 0"] == first
    assert first[0] in flows["interrupt 0"]
    assert len(flows["interrupt 0"]) == 2


def test_vcpus_commands_and_snapshots_have_tracks(packets: Any) -> None:
    found = {(track, name): end - begin for track, name, begin, end, _ in slices(packets)}
    assert found["vCPUs vcpu-0", "block0 QueueNotify = 0"] == 700
    assert found["machine agent", "run ls /"] == 10_000
    assert found["machine snapshots", "snapshot"] == 5_000


def test_two_traces_in_one_file_share_no_track() -> None:
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

    trace = Trace()
    trace.ParseFromString(written() + written())
    tracks = [one.track_descriptor.uuid for one in trace.packet if one.track_descriptor.uuid]
    assert len(tracks) == len(set(tracks))


def test_the_trace_processor_finds_requests_and_arrows(tmp_path: Path) -> None:
    program = os.environ.get("PERFETTO_TRACE_PROCESSOR")
    if not program:
        pytest.skip("PERFETTO_TRACE_PROCESSOR names no trace processor, and no registry has it")
    from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

    (tmp_path / "t.pftrace").write_bytes(written())
    config = TraceProcessorConfig(bin_path=program)
    with TraceProcessor(trace=str(tmp_path / "t.pftrace"), config=config) as processor:
        rows = list(processor.query("select ts, dur from slice where name glob 'read*'"))
        arrows = list(processor.query("select * from flow"))
    assert [(one.ts, one.dur) for one in rows] == [(10_000, 7_000), (11_100, 5_900)]
    assert len(arrows) == 3


def test_the_wire_format_is_that_of_protocol_buffers() -> None:
    # The examples of "Protocol Buffers: Encoding".
    assert number(1, 150) == bytes.fromhex("089601")
    assert message(2, b"testing") == bytes.fromhex("120774657374696e67")
    assert varint(-2) == b"\xfe" + b"\xff" * 8 + b"\x01"
    assert fixed64(1, 1) == b"\x09\x01" + bytes(7)
