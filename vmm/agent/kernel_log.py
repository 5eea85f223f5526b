"""The log of a guest's kernel, as the agent reads it from ``/dev/kmsg``, and the kernel's taint.

Implements Linux Documentation/ABI/testing/dev-kmsg. A record says by its facility who printed it: 0
is the kernel itself, and what a program writes there never has that.
"""

import re
from collections.abc import Iterator
from typing import Final

from virtio.errors import Error
from virtio.named_tuple import NamedTuple
from vmm.agent.errors import AgentProtocolError, guest_error
from vmm.agent.link import Link
from vmm.agent.protocol import LOG_BYTES, How, Request

_MOST_ANSWERS: Final = 8
_MOST_BYTES: Final = LOG_BYTES + 8192
_TAINT: Final = re.compile(rb"\d{1,20}\s*")
# "<facility * 8 + level>,<number>,<microseconds>,<flags>[,more];<text>"
_RECORD: Final = re.compile(rb"(\d{1,10}),(\d{1,20}),(\d{1,20}),[^;\n]*;(.*)")
_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")


class KernelRecord(NamedTuple):
    """A message: who printed it (0: the kernel), its level, number, time and text."""

    facility: int
    level: int
    number: int
    microseconds: int
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines of the text, each with the time before it as ``dmesg`` shows it."""
        seconds, rest = divmod(self.microseconds, 1_000_000)
        return [f"[{seconds:5d}.{rest:06d}] {line}" for line in self.text.split("\n")]


class KernelLog(NamedTuple):
    """What a kernel printed, and ``/proc/sys/kernel/tainted``, None where that is not known.

    ``cut`` says that there is more.
    """

    tainted: int | None
    records: list[KernelRecord]
    cut: bool


def read_log(link: Link, deadline: float) -> KernelLog:
    """Return what the kernel printed since the last call, of this host or one before."""
    tainted: int | None = None
    records: list[KernelRecord] = []
    for _ in range(_MOST_ANSWERS):
        answer = _ask(link, deadline)
        taint, _, text = answer.partition(b"\n")
        if _TAINT.fullmatch(taint):
            tainted = int(taint)
        records += parse_records(text)
        if len(text) < LOG_BYTES:
            return KernelLog(tainted, records, cut=False)
    return KernelLog(tainted, records, cut=True)


def parse_records(text: bytes) -> Iterator[KernelRecord]:
    r"""Yield the records of a text; lines that are none, such as those of keys, are passed over.

    >>> list(parse_records(b"4,17,1500000,-;WARNING: bad\\x0aline\n SUBSYSTEM=pci\n"))[0].lines
    ['[    1.500000] WARNING: bad', '[    1.500000] line']
    """
    for line in text.split(b"\n"):
        if (found := _RECORD.fullmatch(line)) is not None:
            priority, number, microseconds = (int(one) for one in found.groups()[:3])
            yield KernelRecord(
                priority >> 3, priority & 7, number, microseconds, _unescaped(found[4])
            )


def _ask(link: Link, deadline: float) -> bytes:
    job = link.begin(Request.LOG, b"", deadline)
    answer = bytearray()
    try:
        while output := job.receive(deadline):
            answer += output.data
            if len(answer) > _MOST_BYTES:
                raise AgentProtocolError(f"agent: over {_MOST_BYTES} bytes of the kernel's log")
    except Error:
        job.abandon()
        raise
    status = job.final_status()
    if status.how == How.FAILED:
        raise guest_error(status.value, "read", "the kernel's log")
    return bytes(answer)


def _unescaped(text: bytes) -> str:
    """Return a message's text; the kernel has escaped all that is not printable ASCII."""
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text).decode(errors="replace")
