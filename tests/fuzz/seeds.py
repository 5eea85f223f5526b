"""Writes the first inputs of each target's corpus: valid ones, for the fuzzers to spoil.

Structures are typed from the specifications. Run as ``python -m tests.fuzz.seeds``.
"""

import bz2
import gzip
import lzma
import struct
from collections.abc import Iterator
from pathlib import Path

import lz4.block
import zstandard

CORPUS = Path(__file__).parent / "corpus"

NOP, PUBLISH, POP, POP_MANY, OLDEST, NEWEST, ALL = range(7)
ENABLE, DISABLE, STORE, RESTORE, USE, RESET = range(7, 13)


# Rings


def steps(*script: tuple[int, int, int]) -> bytes:
    """Return the steps of a ring's script, filled up to 24."""
    return b"".join(struct.pack("<BBH", *step) for step in script).ljust(96, b"\0")


SCRIPTS = {
    "one": steps((PUBLISH, 1, 0), (POP, 0, 0), (USE, 0, 4), (OLDEST, 0, 2), (ENABLE, 0, 0)),
    "many": steps(
        *((DISABLE, 0, 0), (PUBLISH, 2, 0), (POP_MANY, 7, 0), (ALL, 0, 0), (ENABLE, 0, 0)),
        *((PUBLISH, 2, 0), (POP_MANY, 0, 0), (RESTORE, 0, 0), (POP_MANY, 7, 0), (NEWEST, 0, 0)),
        *((OLDEST, 0, 0), (RESTORE, 0, 0), (PUBLISH, 3, 0), (POP_MANY, 7, 0), (RESET, 0, 0)),
    ),
    "late": steps(
        *((PUBLISH, 3, 0), (POP, 0, 0), (POP, 0, 0), (POP, 0, 0), (NEWEST, 0, 1), (RESTORE, 0, 0)),
        *((OLDEST, 0, 0), (POP, 0, 0), (POP, 0, 0), (OLDEST, 0, 0), (STORE, 64, 1), (ALL, 0, 0)),
    ),
}


def split_seeds() -> Iterator[tuple[str, bytes]]:
    """Eight entries: a plain chain, one of two, an indirect one; rings at 0, 0x80 and 0xa0."""
    entries = [
        *((0x400, 16, 1, 1), (0x420, 32, 3, 2), (0x7F0, 32, 2, 0), (0x500, 8, 0, 0)),
        *((0x200, 48, 4, 0), (0x600, 0, 2, 0), (0x600, 64, 2, 0), (1 << 32, 16, 0, 0)),
    ]
    table = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
    available = struct.pack("<HH8HH", 0, 0, 0, 4, 3, 6, 0, 4, 5, 7, 2).ljust(0x20, b"\0")
    indirect = [(0x440, 8, 1, 1), (0x450, 8, 3, 2), (0x460, 8, 2, 0)]
    body = (table + available).ljust(0x200, b"\0")
    body += b"".join(struct.pack("<QIHH", *entry) for entry in indirect)
    # A head, and a next, one past the table.
    for place in (0x80 + 4, 14):
        wrong = bytearray(body)
        wrong[place] = 8
        set_up = struct.pack("<BBHHHH", 2, 3, 0, 0, 0x80, 0xA0)
        yield f"past-{place}", set_up + SCRIPTS["one"] + wrong
    for flags, start in ((0, 0), (2, 65533), (3, 65535), (7, 5)):
        for name, script in SCRIPTS.items():
            set_up = struct.pack("<BBHHHH", flags, 3, start, 0, 0x80, 0xA0)
            yield f"{name}-{flags}-{start}", set_up + script + body


def packed_seeds() -> Iterator[tuple[str, bytes]]:
    """Five entries, a size that is no power of two; event suppression at 0x1f0 and 0x1f4."""
    entries = [
        *((0x400, 16, 1, 0x80), (0x420, 32, 2, 0x83), (0x7F0, 32, 3, 0x82)),
        *((0x200, 48, 4, 0x84), (0x600, 64, 5, 0x82)),
    ]
    ring = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
    body = ring.ljust(0x1F0, b"\0") + struct.pack("<HHHH", 0x8002, 2, 0, 0)
    body = body.ljust(0x200, b"\0")
    for address, flags in ((0x440, 0), (0x450, 2), (0x460, 2)):
        body += struct.pack("<QIHH", address, 8, 0, flags)
    # Everything taken, and entries of the next lap made available all the same.
    for size in (1, 2):
        script = steps(*[(PUBLISH, 0, 0), (POP, 0, 0)] * 2 * size)
        yield f"full-{size}", struct.pack("<BBHHHH", 0, size, 0, 0, 0x1F0, 0x1F4) + script + body
    # A list that takes all entries, and goes on.
    endless = body[:14] + b"\x81" + body[15:30] + b"\x81" + body[31:]
    set_up = struct.pack("<BBHHHH", 0, 2, 0, 0, 0x1F0, 0x1F4)
    again = steps((PUBLISH, 0, 0), (POP, 0, 0), (PUBLISH, 0, 1), (PUBLISH, 1, 1), (POP, 0, 0))
    yield "endless", set_up + again + endless
    for flags, start in ((0, 0), (2, 0), (3, 0), (7, 0), (2, 7)):
        for name, script in SCRIPTS.items():
            set_up = struct.pack("<BBHHHH", flags, 5, start, 0, 0x1F0, 0x1F4)
            yield f"{name}-{flags}-{start}", set_up + script + body


# Registers


def accesses(*script: tuple[int, int, int]) -> bytes:
    """Return the steps of a script of accesses, filled up to 24."""
    return b"".join(struct.pack("<BBI", *step) for step in script).ljust(144, b"\0")


def mmio_seeds() -> Iterator[tuple[str, bytes]]:
    """A whole life of each device, and one with saving and restoring in between."""
    write, config, serve, store, start, enable, restore, status = 0, 5, 6, 7, 8, 9, 10, 11
    table = b"".join(
        struct.pack("<QIHH", *entry)
        for entry in ((0x400, 16, 1, 1), (0x480, 512, 3, 2), (0x6A0, 1, 2, 0))
    )
    rings = (table.ljust(0x100, b"\0") + struct.pack("<HHHH", 0, 1, 0, 0)).ljust(0x400, b"\0")
    body = rings + struct.pack("<IIQ", 0, 0, 1)
    # Packed and IN_ORDER left out, one queue of 8 entries; then a kick.
    life = [(start, 0, 0x00C000), (enable, 6, 0), (status, 4, 0)]
    work = [(write, 6, 0), (serve, 3, 0), (2, 0x64 >> 2, 3), (store, 64, 0x20000), (write, 6, 0)]
    for device in range(3):
        whole = accesses(*life, *work, (serve, 3, 0), (config, 0x80, 7), (status, 0, 0))
        yield f"life-{device}", bytes([device]) + whole + body
        saved = accesses(*life, (restore, 0, 0), *work[:2], (restore, 0, 0), *work, (serve, 3, 0))
        yield f"saved-{device}", bytes([device]) + saved + body
        broken = accesses(*life, (store, 64, 0x90000), *work, (restore, 0, 0), *life, *work)
        yield f"broken-{device}", bytes([device]) + broken + body


def pci_seeds() -> Iterator[tuple[str, bytes]]:
    """A whole life of each function on PCI: by its BAR, by messages and by the window."""
    config, bar, field, serve, switch, start, enable, live, message = range(9)
    window, restore, store = 9, 10, 11
    table = struct.pack("<QIHH", 0x400, 16, 1, 1) + struct.pack("<QIHH", 0x480, 512, 3, 2)
    table += struct.pack("<QIHH", 0x6A0, 1, 2, 0)
    rings = (table.ljust(0x100, b"\0") + struct.pack("<HHHH", 0, 1, 0, 0)).ljust(0x400, b"\0")
    body = rings + struct.pack("<IIQ", 0, 0, 1)
    vector = 0xC000_0041
    for function in range(2):
        on = [(switch, function | 0x80, 2, 6), (start, function, 0, 0x00C000)]
        queue = [(enable, function, 1 << 4 | 6, 0), (live, function, 0, 0)]
        again = [(store, function, 0x40, 0x20000), (serve, function | 6, 0, 0)]
        by_line = [*on, *queue, (serve, function | 6, 0, 0), (bar, function | 0x80, 0x1000, 0)]
        yield f"line-{function}", steps_of_pci(*by_line, *again, (config, function, 4, 0)) + body
        messages = [(message, function, 0x8001, vector), (message, function, 0x8000, vector)]
        masked = [(message, function, 0xC001, vector), *again, (restore, function, 0, 0)]
        yield f"msix-{function}", steps_of_pci(*on, *queue, *messages, *masked, *messages) + body
        off = [(switch, function, 0, 0), *again, (switch, function, 0, 6), *again]
        moved = [(switch, function | 0x80, place, 6) for place in range(7)]
        yield f"moves-{function}", steps_of_pci(*on, *queue, *off, *moved, *again) + body
        through = [(window, function | 0x20, 0x14, status) for status in (0, 1, 3, 11)]
        yield f"window-{function}", steps_of_pci(*through, (field, function, 5, 2)) + body


def steps_of_pci(*steps: tuple[int, int, int, int]) -> bytes:
    """Return a script of steps, filled up to its full length with reads that change nothing."""
    script = b"".join(struct.pack("<BBHI", *step) for step in steps)
    return script + struct.pack("<BBHI", 0, 0x84, 0, 0) * (24 - len(steps))


# Block


def block_seeds() -> Iterator[tuple[str, bytes]]:
    """One request of each type, and several at once with faults."""
    kinds = {"in": 0, "out": 1, "flush": 4, "id": 8, "discard": 11, "zeroes": 13, "none": 99}
    for name, kind in kinds.items():
        changing = kind in (1, 11, 13)
        data = (0x100, 1024 if kind == 1 else 16) if changing else (0x100, 1024)
        chain = [(0, 16, 0), (*data, 0 if changing else 1), (0xFF0, 1, 3)]
        body = struct.pack("<IIQ", kind, 0, 2).ljust(0x100, b"\0") + struct.pack("<QII", 3, 2, 0)
        for set_up in ((0, 0, 0, 255), (1, 0, 0, 3), (0, 31, 1 << 9, 3)):
            script = b"".join(struct.pack("<HHB", *one) for one in chain * 2).ljust(160, b"\0")
            yield f"{name}-{set_up[0]}-{set_up[1]}", struct.pack("<BBHB", *set_up) + script + body


# Both engines


def engine_seeds() -> Iterator[tuple[str, bytes]]:
    """Reads and writes in both forms of the ring, direct and indirect, and what is not ordinary."""
    kinds = {"in": (0, 2), "out": (1, 0), "flush": (4, 0), "far": (0, 2)}
    for form, flags in (("split", 0), ("packed", 1)):
        for name, (kind, write) in kinds.items():
            sector = 1 << 40 if name == "far" else 2
            header = struct.pack("<IIQ", kind, 0, sector)
            parts = [(0x500, 16, 0), (0x600, 1024, write), (0xF00, 1, 2)]
            for indirect in (False, True):
                ring, table = _chain_of(parts, packed=bool(flags), indirect=indirect)
                for more, start in ((0x0E, 0), (0x06, 5)):
                    body = ring.ljust(0x400, b"\0") + table.ljust(0x100, b"\0") + header
                    set_up = struct.pack("<BBHH", flags | more, 3, start if not flags else 0, 1)
                    kind_of = "indirect" if indirect else "direct"
                    yield f"{form}-{name}-{kind_of}-{more}", set_up + body


def _chain_of(
    parts: list[tuple[int, int, int]], *, packed: bool, indirect: bool
) -> tuple[bytes, bytes]:
    """Return a ring that holds one chain, in several places, and the indirect table at 0x400."""
    last = len(parts) - 1
    if indirect and packed:
        table = b"".join(struct.pack("<QIHH", *one[:2], 0, one[2]) for one in parts)
        return struct.pack("<QIHH", 0x400, len(table), 7, 4 | 0x80), table
    if packed:
        flags = [one[2] | (at < last) | 0x80 for at, one in enumerate(parts)]
        ring = [
            struct.pack("<QIHH", *one[:2], 7, flag) for one, flag in zip(parts, flags, strict=True)
        ]
        return b"".join(ring), b""
    table = b"".join(
        struct.pack("<QIHH", *one[:2], one[2] | (at < last), at + 1) for at, one in enumerate(parts)
    )
    heads = struct.pack("<HH8H", 0, 1, *[0] * 8)
    if indirect:
        return struct.pack("<QIHH", 0x400, len(table), 4, 0).ljust(0x200, b"\0") + heads, table
    return table.ljust(0x200, b"\0") + heads, b""


# Console


def console_seeds() -> Iterator[tuple[str, bytes]]:
    """Ports set up and used, by drivers that know of one and of many, and what comes in between."""
    out, into, both, say, send, room, open_, close, resize, remove, add, restore, emergency = range(
        13
    )
    first = [(say, 0, 0, 1), (into, 2, 0x800, 64), (into, 2, 0x840, 64), (into, 2, 0x880, 64)]
    set_up = [*first, (say, 0, 3, 1), (say, 0, 6, 1), (say, 1, 3, 1), (say, 1, 6, 1)]
    data = [(send, 0, 40, 0), (into, 0, 0x900, 16), (into, 0, 0x920, 64), (out, 1, 0x100, 80)]
    slow = [(room, 0, 10, 0), (out, 1, 0x100, 80), (out, 1, 0x200, 8), (room, 0, 50, 0)]
    scripts = {
        "data": [*set_up, *data, (both, 1, 0x300, 32), (both, 0, 0x340, 32), (send, 0, 8, 0)],
        "slow": [*slow, (restore, 0, 0, 0), (room, 0, 0, 0), (restore, 0, 0, 0), (out, 1, 0, 9)],
        "ends": [*set_up, *slow, (close, 0, 0, 0), (open_, 0, 0, 0), *data, (say, 0, 6, 0)],
        "ports": [*set_up, (remove, 1, 0, 0), (add, 0, 0, 0), (add, 0, 0, 0), (remove, 0, 0, 0)],
        "size": [*set_up, (resize, 0, 132, 43), (resize, 1, 90, 30), (emergency, 8, 0, 0)],
        "starved": [(say, 0, 0, 1), (say, 0, 3, 1), (close, 0, 0, 0), (restore, 0, 0, 0), *first],
    }
    for name, script in scripts.items():
        steps = b"".join(struct.pack("<BBHH", *step) for step in script).ljust(192, b"\0")
        for refused in (0, 2):
            yield f"{name}-{refused}", bytes([refused]) + steps + bytes(range(256)) * 3


def vsock_seeds() -> Iterator[tuple[str, bytes]]:
    """Connections of both ends, data both ways, and each way to end one."""
    raw, send, give, connect, tell, room, end, close, abort, wait = range(10)
    request, response, rst, shutdown, rw, update = range(6)

    def say(op: int, port: int = 0x30, value: int = 0, credit: int = 4096) -> tuple[int, ...]:
        return send, port, credit, (value << 2) // 9 * 9 + op

    scripts = {
        "talk": [
            *(say(request), (give, 0, 0, 0), (tell, 0, 100, 0), say(rw, value=5 << 8)),
            *((give, 0, 0, 0), (room, 0, 0, 9), say(rw, value=300 << 8), (give, 0, 0, 0)),
        ],
        "credit": [
            *(say(request, credit=8), (tell, 0, 100, 0), (give, 0, 0, 0), say(update, credit=64)),
            *((give, 0, 0, 0), say(update, credit=2), (give, 0, 0, 0)),
        ],
        "host": [
            *((connect, 0x40, 0, 0), (give, 0, 0, 0), say(response, 0x40), (tell, 0, 9, 0)),
            *((end, 0, 0, 0), (give, 0, 0, 0), (close, 0, 0, 0), (give, 0, 0, 0), (wait, 0, 9, 0)),
        ],
        "ends": [
            *(
                say(request),
                say(shutdown, value=3),
                (give, 0, 0, 0),
                say(request),
                (abort, 0, 0, 0),
            ),
            *((give, 0, 0, 0), say(rst), say(rw), (raw, 0, 0x0105, 3), (give, 0, 0, 0)),
        ],
    }
    for name, script in scripts.items():
        for features in (3, 15):
            steps_of = b"".join(struct.pack("<BBHI", *step) for step in script)
            yield f"{name}-{features}", bytes([features]) + steps_of


# Network


def net_seeds() -> Iterator[tuple[str, bytes]]:
    """Packets of each kind either way, commands, and what comes in between."""
    out, into, command, deliver, room, link, time, restore, disable = range(9)
    ether = b"\2\0\0\0\0\1" + b"\2\0\0\0\0\2" + b"\x08\0"
    ip = struct.pack(">BBHHHBBH8s", 0x45, 0, 540, 7, 0, 64, 6, 0, b"\n\0\0\1\n\0\0\2")
    tcp = struct.pack(">HHIIBBHHH", 1000, 80, 99, 0, 0x50, 0x18, 512, 7, 0)
    plain = bytes(10) + b"\1\0" + ether + bytes(46)
    large = struct.pack("<BBHHHHH", 1, 1, 54, 200, 34, 16, 1) + ether + ip + tcp + bytes(500)
    datagram = struct.pack("<BBHHHHH", 1, 5, 42, 200, 34, 6, 1) + ether + ip[:9] + b"\x11" + ip[10:]
    datagram += tcp[:8] + bytes(500)
    give = [(into, 0, 400, b"")] * 4
    scripts = {
        "plain": [(out, 0, 0, plain), *give, (deliver, 0, 0, plain)],
        "large": [(out, 0, 0, large), *give, (deliver, 0, 0, large)],
        "datagram": [(out, 0, 0, datagram), *give, (deliver, 0, 0, datagram)],
        "full": [(room, 0, 1, b""), (out, 0, 0, large), (restore, 0, 0, b""), (room, 0, 9, b"")],
        "starved": [(into, 0, 100, b""), (deliver, 0, 1, large), (time, 0, 0, b""), *give],
        "tables": [(command, 0, 1, b"\1\0" + struct.pack("<I6sI", 1, ether[:6], 0))],
        "modes": [(command, 0, 1, bytes([0, n, 1])) for n in range(6)],
        "vlan": [(command, 0, 1, b"\2\0\1\0"), (deliver, 0, 0, plain[:24] + b"\x81\0\0\1" + ip)],
        "pairs": [(command, 0, 1, b"\4\0\2\0"), (out, 1, 0, plain), (disable, 1, 0, b""), *give],
        "offloads": [(command, 0, 1, b"\5\0" + bytes(8)), *give, (deliver, 0, 0, large)],
        "address": [(command, 0, 1, b"\1\1" + ether[6:12]), (link, 0, 0, b""), (link, 0, 1, b"")],
    }
    for name, script in scripts.items():
        steps = b"".join(struct.pack("<BBHH", *step[:3], len(step[3])) + step[3] for step in script)
        for refused, takes in ((0, 0x6F), (1 << 1 | 1 << 15 | 1 << 22, 0)):
            yield f"{name}-{takes}", struct.pack("<QB", refused, takes) + steps


def balloon_seeds() -> Iterator[tuple[str, bytes]]:
    """Pages that go in and out, statistics, a round of hints, reports with and without poison."""
    _, numbers, name, command, configure, poll, ask, end, restart = range(9)
    scripts = {
        "pages": [(numbers, 0, 9, 5), (numbers, 0, 0x109, 1 << 31), (numbers, 1, 9, 5)],
        "statistics": [(0, 2, 4, 0), (poll, 0, 0, 0), (0, 2, 5, 77), (0, 2, 5, 78)],
        "hints": [
            *((ask, 0, 0, 0), (command, 3, 2, 0), (name, 3, 9, 0x1000), (command, 3, 0, 0)),
            *((end, 0, 0, 0), (name, 3, 9, 0x3000), (ask, 0, 1, 600), (command, 3, 1, 9)),
        ],
        "reports": [
            *((name, 4, 9, 0x4000), (configure, 0, 3, 0xAAAA_AAAA), (name, 4, 9, 0x4000)),
            *((restart, 0, 1, 0), (name, 4, 0xFFFF, 0x1F_FFFF)),
        ],
    }
    for title, script in scripts.items():
        for form in (0, 1):
            steps_of = b"".join(struct.pack("<BBHI", *step) for step in script)
            yield f"{title}-{form}", bytes([63, form]) + steps_of


def net_engine_seeds() -> Iterator[tuple[str, bytes]]:
    """Packets of each kind either way, by taps and streams, with and without room for them."""
    out, into, arrive, hear, command, time, poke = range(7)
    ether = b"\2\0\0\0\0\1" + b"\2\0\0\0\0\2" + b"\x08\0"
    ip = struct.pack(">BBHHHBBH8s", 0x45, 0, 540, 7, 0, 64, 6, 0, b"\n\0\0\1\n\0\0\2")
    tcp = struct.pack(">HHIIBBHHH", 1000, 80, 99, 0, 0x50, 0x18, 512, 7, 0)
    plain = bytes(10) + b"\1\0" + ether + bytes(46)
    unsummed = struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 16, 1) + ether + ip + tcp + bytes(100)
    large = struct.pack("<BBHHHHH", 1, 1, 54, 60, 34, 16, 1) + ether + ip + tcp + bytes(150)
    datagram = struct.pack("<BBHHHHH", 1, 5, 42, 60, 34, 6, 1) + ether + ip[:9] + b"\x11" + ip[10:]
    datagram += tcp[:8] + bytes(150)
    verified = b"\2" + plain[1:]
    crowd = plain[:12] + b"\1\0\x5e\0\0\1" + plain[18:]
    give = [(into | 7 << 3, 128, b"")]
    small = [(into | 15 << 3, 16, b"")]
    for name, packet in (("plain", plain), ("unsummed", unsummed), ("large", large)):
        yield from _net_runs(name, [(out, 0, packet), *give, (arrive, 0, packet), *give])
        yield from _net_runs(f"{name}-cut", [(out, 30, packet), *small, (arrive | 8, 0, packet)])
    for name, packet in (("datagram", datagram), ("verified", verified), ("crowd", crowd)):
        yield from _net_runs(name, [*give, (arrive | 3 << 3, 0, packet), (out, 0, packet)])
    scripts = {
        "full": [(out | 15 << 3, 0, large), (out | 15 << 3, 0, plain), (hear, 0, b"")],
        "starved": [(into, 8, b""), (arrive | 8, 0, large), (time, 0, b""), *give],
        "waits": [(arrive | 9 << 3, 0, plain), *small, *give, *give],
        "odd": [(into, 0x41, b"head"), (into, 0x40, b"head"), (arrive, 0, plain), *give],
        "tables": [
            (command, 0, b"\1\0" + struct.pack("<II6s", 0, 1, crowd[12:18])),
            *(*give, (arrive, 0, crowd), (arrive, 0, plain)),
        ],
        "modes": [(command, 0, bytes([0, n, 1])) for n in range(6)] + [(arrive, 0, crowd), *give],
        "offloads": [(command, 0, b"\5\0" + bytes(8)), *give, (arrive, 0, unsummed)],
        "spoilt": [*give, (poke, 7, b"\xff" * 16), (arrive, 0, plain), (out, 0, plain)],
    }
    for name, script in scripts.items():
        yield from _net_runs(name, script)


def _net_runs(name: str, script: list[tuple[int, int, bytes]]) -> Iterator[tuple[str, bytes]]:
    for form, network in (("tap", 0x6F), ("bare", 0), ("stream", 0x80)):
        steps = b""
        for operation, size, data in script:
            is_arrival = operation & 7 == 2 and form == "stream"
            sent = struct.pack(">I", len(data) - 12) + data[12:] if is_arrival else data
            steps += struct.pack("<BBH", operation, size, len(sent)) + sent
        kind, refused = ("packed", 1 << 15) if form == "bare" else ("split", 1 << 34)
        yield f"{name}-{form}-{kind}", struct.pack("<QB", refused, network) + steps


# Kernels


def vmlinux(
    code: bytes,
    *,
    notes: bool = False,
    start: int = 0x100000,
    memory: int = 0x100,
    second: int | None = None,
) -> bytes:
    """Return an ELF kernel of a segment at ``start`` of ``memory`` bytes, maybe with a PVH note.

    ``second`` is the address of another segment of 16 bytes, if there is to be one.
    """
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x100004)
    loads = [(1, 7, 0x200, 0, start, len(code), memory, 4096)]
    loads += [(1, 7, 0x1F0, 0, second, 16, 16, 4096)] if second is not None else []
    loads += [(4, 0, 0x1C0, 0, 0, len(note), len(note), 4)] if notes else []
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQI", 2, 62, 1, start, 64, 0, 0)
    header += struct.pack("<HHHHHH", 64, 56, len(loads), 0, 0, 0)
    header += b"".join(struct.pack("<IIQQQQQQ", *load) for load in loads)
    return header.ljust(0x1C0, b"\0") + note.ljust(0x40, b"\0") + code


def elf_seeds() -> Iterator[tuple[str, bytes]]:
    """A kernel with a PVH note and one without, for each protocol."""
    for protocol in range(3):
        for notes in (False, True):
            kernel = vmlinux(b"code" * 8, notes=notes)
            yield f"{protocol}-{notes:d}", bytes([protocol]) + kernel[4:]
    code = b"code" * 8
    # RAM ends at 0x120000; below 0x100000 nothing may be loaded.
    yield "low", b"\0" + vmlinux(code, start=0xFF000)[4:]
    yield "ends-with-ram", b"\0" + vmlinux(code, memory=0x20000)[4:]
    yield "ends-past-ram", b"\0" + vmlinux(code, memory=0x20001)[4:]
    yield "too-long", b"\0" + vmlinux(code, memory=31)[4:]
    yield "overlap", b"\0" + vmlinux(code, second=0x10001F)[4:]
    yield "adjoining", b"\0" + vmlinux(code, second=0x100100)[4:]


def multiboot_seeds() -> Iterator[tuple[str, bytes]]:
    """A header of each version in an ELF file of each class, and in files that are none."""

    def words(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}I", *(value & 0xFFFFFFFF for value in values))

    def tags(*tags: tuple[int, int, bytes]) -> bytes:
        body = b"".join(
            struct.pack("<HHI", kind, flags, 8 + len(data)) + data + bytes(-len(data) % 8)
            for kind, flags, data in (*tags, (0, 0, b""))
        )
        length = 16 + len(body)
        return words(0xE85250D6, 0, length, -(0xE85250D6 + length)) + body

    def elf_32(code: bytes) -> bytes:
        head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
        head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, start, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        head += words(1, 0x80, start, start, len(code), len(code) + 16, 5, 4)
        return head.ljust(0x80, b"\0") + code

    start, flat = 0x100000, 1 << 16
    plain = words(0x1BADB002, 3, -(0x1BADB002 + 3)) + b"code"
    asks = tags((1, 0, words(1, 6, 15)), (5, 1, bytes(12)), (6, 0, b""))
    for protocol in range(4):
        for name, body in (("one", plain), ("two", asks), ("none", b"code")):
            yield f"{protocol}-32-{name}", bytes([protocol]) + elf_32(body)
            yield f"{protocol}-64-{name}", bytes([protocol]) + vmlinux(body)
    head = words(0x1BADB002, flat, -(0x1BADB002 + flat))
    yield "flat", b"\0" + head + words(start, start, 0, start + 64, start + 32) + b"code"
    part = words(start + 8, start, start + 44, start + 0x100, start + 40)
    yield "flat-part", b"\1" + bytes(8) + head + part + b"code and more"
    addresses = words(start, 0xFFFFFFFF, 0, 0)
    yield "flat-two", b"\2" + tags((2, 0, addresses), (3, 0, words(start + 4)))


def streams(data: bytes) -> dict[str, bytes]:
    """Return ``data`` in each compression, with its size behind it as the kernel's build does."""
    size = struct.pack("<I", len(data))
    xz = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]
    block = lz4.block.compress(data, store_size=False)
    return {
        "gzip": gzip.compress(data, mtime=0),
        "xz": lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=xz) + size,
        "lzma": lzma.compress(data, lzma.FORMAT_ALONE) + size,
        "bzip2": bz2.compress(data) + size,
        "lz4": b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block + size,
        "zstd": zstandard.ZstdCompressor().compress(data) + size,
    }


MAGIC_LENGTHS = {"gzip": 2, "xz": 6, "lzma": 3, "bzip2": 3, "lz4": 4, "zstd": 4}


def payload_seeds() -> Iterator[tuple[str, bytes]]:
    """A little text in each compression."""
    for number, (name, stream) in enumerate(streams(b"a kernel would be here\n" * 20).items()):
        yield name, bytes([number]) + stream[MAGIC_LENGTHS[name] :]


def bzimage_seeds() -> Iterator[tuple[str, bytes]]:
    """A small kernel in each compression, behind a setup header of boot protocol 2.15."""
    for name, stream in streams(vmlinux(b"code" * 8)).items():
        image = bytearray(2 * 512)
        image[0x1F1] = 1
        image[0x201] = 0x6A
        struct.pack_into("<H", image, 0x206, 0x020F)
        image[0x211] = 1
        struct.pack_into("<IIHH", image, 0x22C, 0x7FFFFFFF, 0, 0, 0x3F)
        struct.pack_into("<I", image, 0x238, 2047)
        struct.pack_into("<II", image, 0x248, 0, len(stream))
        yield name, bytes(image[0x1F1:]) + stream


def snapshot_seeds() -> Iterator[tuple[str, bytes]]:
    """Changes of a saved machine: one of each kind at many places, and files that are no state."""
    for number, place in enumerate(range(1, 560, 23)):
        what, value = number % 7, (number * 37, -1, 1 << 40)[number % 3]
        yield f"change-{place}", b"\0" + struct.pack("<HBq", place, what, value)
    for what in range(7):
        yield f"kind-{what}", b"\0" + struct.pack("<HBqHBq", 300, what, 7, 40, what, 1 << 33)
    yield "unchanged", b"\0"
    yield "empty", b"\1"
    yield "deep", b"\1" + b"[" * 1200
    yield "list", b"\1[1,2.5e3,null]"
    yield "no-host", b'\1{"host":{},"contents":{"memory":NaN}}'


# The agent

FRAME, RAW, BEGIN, SHUT, START, ABANDON, TAKE, WAIT, ASK, ANEW, FLOOD = range(11)


def agent_seeds() -> Iterator[tuple[str, bytes]]:
    """Commands that end, that are abandoned, that an agent lies about or floods."""
    # A status is 5 bytes, a number 4: the step's third number is their size times 8 and the kind.
    status, number, output = 5 << 3 | 5, 4 << 3 | 4, 6 << 3 | 2
    scripts = {
        "ends": [(START, 0, 0, 0), (FRAME, 1, output, 0), (TAKE, 0, 0, 0), (FRAME, 1, status, 8)],
        "twice": [(START, 0, 0, 0), (FRAME, 1, status, 8), (FRAME, 1, status, 8)],
        "left": [(START, 0, 0, 0), (ABANDON, 0, 0, 0), (FLOOD, 1, 0, 9), (FRAME, 1, status, 8)],
        "waits": [(START, 0, 0, 1), (WAIT, 0, 0, 1), (WAIT, 0, 0, 0), (FRAME, 1, status, 16)],
        "anew": [(START, 0, 0, 0), (BEGIN, 0, 0, 0), (START, 0, 0, 0), (FRAME, 2, status, 8)],
        "resets": [(START, 0, 0, 0), (ANEW, 0, 0, 0), (BEGIN, 0, 0, 0), (ASK, 0, 0, 0)],
        "shuts": [(START, 0, 0, 0), (SHUT, 0, 0, 0), (RAW, 0, 16, 255), (START, 0, 0, 0)],
        "asks": [(ASK, 0, 0, 1), (FRAME, 1, output, 0), (ASK, 0, 0, 2), (ASK, 0, 0, 3)],
        "consumes": [(START, 0, 0, 0), (WAIT, 0, 0, 0), (FRAME, 1, number, 24)],
        "floods": [(START, 0, 0, 0), *[(FLOOD, 1, at & 1, 255) for at in range(6)]],
    }
    text = b"output\0\0" + bytes(5).ljust(8, b"\0") + struct.pack("<BI", 1, 9).ljust(8, b"\0")
    text += struct.pack("<I", 5).ljust(8, b"\0") + b"x" * 32
    text += struct.pack("<IIB8sII", 21, 0, 0x81, b"vmmagent", 2, 42) + b"x" * 256
    for name, script in scripts.items():
        yield (
            name,
            b"".join(struct.pack("<BBBB", *step) for step in script).ljust(192, b"\x06") + text,
        )


# The sandbox


def sandbox_seeds() -> Iterator[tuple[str, bytes]]:
    """Calls of each kind that the filter tells apart, by their arguments, numbers and ABI."""
    scripts: dict[str, list[tuple[int, ...]]] = {
        "ioctl": [(16, 0, 0, 0xAE80), (16, 0, 0, 0xAE01), (16, 0, 0, 0x5401), (16, 0, 0, 0x5412)],
        "memory": [(9, 0, 0, 4096, 3), (9, 0, 0, 4096, 5), (10, 0, 0, 4096, 1), (10, 0, 0, 0, 7)],
        "threads": [(56, 0, 0x3D0F00), (56, 0, 0x7D0F00), (56, 0, 0x11), (435, 0, 0, 88), (57, 0)],
        "advice": [(28, 0, 0, 4096, 4), (28, 0, 0, 4096, 100), (28, 0, 0, 4096, 12)],
        "signals": [
            (62, 0, 4242, 9),
            (62, 0, 0, 20),
            (62, 0, 0, 9),
            (62, 0, 1, 9),
            (234, 0, 4242, 1, 10),
        ],
        "files": [(2, 0), (257, 0), (262, 0, 5, 0, 0, 0x1000), (262, 0, 5, 0, 0, 0), (5, 0, 3)],
        "flags": [
            (72, 0, 0, 1033),
            (72, 0, 0, 8),
            (157, 0, 15),
            (157, 0, 38, 1),
            (157, 0, 1 << 32),
        ],
        "abi": [(0, 0x80000003), (0x40000000, 0), (499, 0), (0xFFFFFFFF, 0), (471, 0), (182, 0)],
        "plain": [(number, 0) for number in (0, 1, 3, 202, 231, 232, 295, 296, 318)],
    }
    for name, script in scripts.items():
        calls = [(*call, 0, 0, 0, 0, 0, 0)[:8] for call in script]
        yield name, b"".join(struct.pack("<II6Q", *call) for call in calls)


# The file system device


def fuse_seeds() -> Iterator[tuple[str, bytes]]:
    """Each kind of request once, and scripts in which one needs the other; nodes are 2 to 6."""
    q, i = struct.Struct("<Q").pack, struct.Struct("<I").pack
    read = struct.pack("<QQIIQII", 1, 0, 64, 0, 0, 0, 0)
    write = struct.pack("<QQIIQII", 1, 3, 4, 0, 0, 0, 0) + b"data"
    lock = struct.pack("<QQQQIIII", 1, 5, 0, 9, 1, 7, 0, 0)
    listing = struct.pack("<QQIIQII", 2, 0, 4096, 0, 0, 0, 0)
    both = struct.pack("<QQQQQQQ", 1, 0, 4, 1, 100, 5, 0)
    scripts: dict[str, list[tuple[int, int, bytes]]] = {
        "look": [
            (1, 1, b"file\0"),
            (1, 2, b"b\0"),
            (1, 1, b"..\0"),
            (3, 4, bytes(16)),
            (5, 5, b""),
        ],
        "data": [(15, 4, read), (16, 4, write), (15, 4, read), (20, 4, q(1) + q(1))],
        "list": [(27, 2, bytes(8)), (28, 1, listing), (44, 1, listing), (29, 1, q(2) + bytes(16))],
        "make": [
            (9, 1, i(0o755) + i(0) + b"new\0"),
            (35, 1, i(2) + i(0o644) + bytes(8) + b"made\0"),
            (6, 1, b"link\0../secret\0"),
            (8, 1, i(0o10644) + bytes(12) + b"pipe\0"),
            (13, 1, q(4) + b"again\0"),
        ],
        "names": [
            (12, 1, q(2) + b"file\0moved\0"),
            (45, 1, q(1) + i(2) + i(0) + b"a\0out\0"),
            (10, 1, b"out\0"),
            (11, 2, b"b\0"),
            (3, 3, bytes(16)),
        ],
        "change": [(4, 4, i(0x1F) + bytes(12) + q(3) + bytes(52) + i(0o600) + bytes(16))],
        "attributes": [
            (21, 4, i(1) + i(0) + b"user.a\0x"),
            (22, 4, i(9) + i(0) + b"user.a\0"),
            (23, 4, i(99) + i(0)),
            (24, 4, b"user.a\0"),
        ],
        "storage": [
            (43, 4, q(1) + q(0) + q(99) + i(3) + i(0)),
            (46, 4, q(1) + q(0) + i(3) + i(0)),
            (47, 4, both),
            (17, 1, b""),
            (50, 1, bytes(8)),
        ],
        "locks": [
            (32, 4, lock),
            (33, 4, lock[:8] + q(6) + lock[16:]),
            (36, 1, q(24)),
            (31, 4, lock),
        ],
        "forget": [(2, 4, q(9)), (42, 1, i(1) + i(0) + q(3) + q(1)), (3, 4, bytes(16))],
        "saved": [
            (10, 1, b"file\0"),
            (255, 0, b""),
            (15, 4, read),
            (1, 1, b"a\0"),
            (3, 2, bytes(16)),
        ],
        "anew": [(26, 0, i(7) + i(37) + bytes(8)), (38, 0, b""), (1, 1, b"a\0")],
    }
    for name, script in scripts.items():
        steps = (struct.pack("<BBBB", op, node, len(body), 7) + body for op, node, body in script)
        yield name, b"".join(steps)


def gdb_seeds() -> Iterator[tuple[str, bytes]]:
    """Sessions of a debugger."""
    base = b"ffff8000000000"
    sessions = {
        "begin": (
            *(b"qSupported:multiprocess+;swbreak+;hwbreak+", b"vMustReplyEmpty"),
            *(b"QStartNoAckMode", b"Hg0", b"qXfer:features:read:target.xml:0,ffb", b"qTStatus"),
            *(b"?", b"qfThreadInfo", b"qsThreadInfo", b"qAttached", b"Hc-1", b"qC", b"g"),
        ),
        "memory": (
            *(b"m%s10,40" % base, b"M%s10,2:abcd" % base, b"X%s12,2:}\x03}]" % base, b"m0,4"),
            *(b"p10", b"P10=0011223344556677", b"p2b", b"T1", b"qThreadExtraInfo,2"),
        ),
        "run": (
            *(b"Z0,%s20,1" % base, b"vCont?", b"vCont;s:1;c", b"\x03", b"z0,%s20,1" % base),
            *(b"Z2,%s40,8" % base, b"c", b"s", b"qRcmd,717565756573", b"D"),
        ),
    }
    for name, packets in sessions.items():
        words = (one if one == b"\x03" else b"$%s#%02x" % (one, sum(one) & 0xFF) for one in packets)
        yield name, b"\x05" + b"+".join(words)


SEEDS = {
    "balloon_requests": balloon_seeds,
    "fuse_requests": fuse_seeds,
    "gdb_packets": gdb_seeds,
    "agent_frames": agent_seeds,
    "block_request": block_seeds,
    "bzimage": bzimage_seeds,
    "console_ports": console_seeds,
    "vsock_packets": vsock_seeds,
    "elf": elf_seeds,
    "engines": engine_seeds,
    "mmio_registers": mmio_seeds,
    "multiboot": multiboot_seeds,
    "net_engines": net_engine_seeds,
    "net_packets": net_seeds,
    "packed_ring": packed_seeds,
    "payload": payload_seeds,
    "pci_functions": pci_seeds,
    "sandbox_filter": sandbox_seeds,
    "snapshot_folder": snapshot_seeds,
    "split_ring": split_seeds,
}


def main() -> None:
    """Write all seeds."""
    for target, seeds in SEEDS.items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds():
            (CORPUS / target / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
