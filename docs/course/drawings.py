"""Draws the pictures of the course: ``python docs/course/drawings.py`` writes them all again.

A drawing is boxes with words in them, and arrows. The same code gives the same bytes.
"""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CHARACTER: Final = 7.3
"""Width of one character of the text, in the drawing's units, with some room."""

FILLS: Final = {"host": "#dcebfa", "guest": "#fdebd0", "device": "#e2f3e1", "plain": "#f2f2f2"}


@dataclass
class Drawing:
    """A drawing of ``width`` times ``height`` units; its parts are added in any order."""

    title: str
    width: int = 680
    height: int = 200
    parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, width: int, height: int, text: str, kind: str = "plain") -> None:
        """Add a box with lines of text in its middle."""
        self._within(x, y, x + width, y + height)
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4"'
            f' fill="{FILLS[kind]}" stroke="#555"/>'
        )
        lines = text.split("\n")
        if any(len(line) * CHARACTER > width for line in lines) or len(lines) * 16 > height:
            raise ValueError(f"{text!r} does not fit into its box")
        top = y + height / 2 - 8 * (len(lines) - 1) + 4
        for index, line in enumerate(lines):
            self._text(x + width / 2, top + 16 * index, line, "middle")

    def note(self, x: int, y: int, text: str) -> None:
        """Add a line of text that begins at a place."""
        self._within(x, y - 12, x + int(len(text) * CHARACTER), y + 4)
        self._text(x, y, text, "start")

    def arrow(self, x1: int, y1: int, x2: int, y2: int, text: str = "") -> None:
        """Add an arrow, with a line of text over its middle."""
        self._within(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        self.parts.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#333" marker-end="url(#tip)"/>'
        )
        if text:
            self._text((x1 + x2) / 2, (y1 + y2) / 2 - 6, text, "middle")

    def line(self, x1: int, y1: int, x2: int, y2: int) -> None:
        """Add a thin line."""
        self._within(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        self.parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#999"/>')

    def svg(self) -> str:
        """Return the file."""
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}"'
            f' width="{self.width}" role="img">',
            f"<title>{escape(self.title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#333"/>'
            "</marker></defs>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *self.parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
            f' font-family="sans-serif" font-size="13" fill="#111">{escape(text)}</text>'
        )

    def _within(self, left: int, top: int, right: int, bottom: int) -> None:
        if left < 0 or top < 0 or right > self.width or bottom > self.height:
            raise ValueError(f"({left}, {top}) to ({right}, {bottom}) is not in the drawing")


def first_instructions() -> Drawing:
    """Return who runs what, and the way of control."""
    picture = Drawing("Your program enters the guest by KVM_RUN, and an exit leads back")
    picture.box(20, 50, 170, 90, "your program\nmemory, devices", "host")
    picture.box(260, 50, 130, 90, "KVM\n(host's kernel)", "plain")
    picture.box(470, 50, 190, 90, "guest\neight instructions", "guest")
    picture.arrow(190, 80, 260, 80, "KVM_RUN")
    picture.arrow(390, 80, 470, 80, "enter")
    picture.arrow(470, 120, 390, 120, "out, hlt")
    picture.arrow(260, 120, 190, 120, "exit")
    picture.note(20, 175, "The page of memory is your program's; the guest sees it at 0x1000.")
    return picture


def memory_slots() -> Drawing:
    """Return guest-physical addresses beside the memory of the process."""
    picture = Drawing("Slots lead from guest addresses to memory of your process", height=250)
    picture.note(20, 24, "the guest sees")
    for y, text, kind in (
        (35, "0x1000  slot 0", "guest"),
        (85, "0x2000  hole: exit 6", "plain"),
        (135, "0x8000  slot 1", "guest"),
        (185, "0x9000  slot 2", "guest"),
    ):
        picture.box(20, y, 220, 40, text, kind)
    picture.note(430, 24, "your process has")
    picture.box(430, 35, 220, 40, "code, 4096 bytes", "host")
    picture.box(430, 150, 220, 50, "data, 4096 bytes", "host")
    picture.arrow(240, 55, 430, 55)
    picture.arrow(240, 155, 430, 165)
    picture.arrow(240, 205, 430, 185)
    return picture


def ports_and_registers() -> Drawing:
    """Return the three ways of an access."""
    picture = Drawing("An access goes to memory, or is an exit to a device", height=230)
    picture.box(20, 30, 170, 60, "load or store", "guest")
    picture.box(20, 150, 170, 50, "in or out", "guest")
    picture.box(270, 20, 120, 80, "is it in\na slot?", "plain")
    picture.box(480, 15, 180, 40, "memory, no exit", "host")
    picture.box(480, 75, 180, 45, "exit 6: registers", "device")
    picture.box(480, 150, 180, 50, "exit 2: port", "device")
    picture.arrow(190, 60, 270, 60)
    picture.arrow(390, 45, 480, 35, "yes")
    picture.arrow(390, 80, 480, 97, "no")
    picture.arrow(190, 175, 480, 175)
    return picture


def serial_port() -> Drawing:
    """Return the questions and the byte."""
    picture = Drawing("A driver asks until the port can take a byte, then sends it")
    picture.box(20, 30, 180, 140, "guest\nloop: ask, send", "guest")
    picture.box(480, 30, 180, 60, "register 5\nline status", "device")
    picture.box(480, 110, 180, 60, "register 0\ndata", "device")
    picture.arrow(200, 50, 480, 50, "in 0x3fd: may I?")
    picture.arrow(480, 78, 200, 78, "0x20: yes, 0: not yet")
    picture.arrow(200, 140, 480, 140, "out 0x3f8: one byte")
    return picture


def long_mode() -> Drawing:
    """Return the walk through four tables."""
    picture = Drawing("Nine bits of the address choose an entry at each level", height=210)
    for index, (bits, table) in enumerate(
        (("bits 47-39", "root"), ("bits 38-30", "second"), ("bits 29-21", "third"))
    ):
        x = 20 + 130 * index
        picture.box(x, 20, 110, 36, bits, "guest")
        picture.box(x, 100, 110, 50, table, "plain")
        picture.arrow(x + 55, 56, x + 55, 100)
    picture.box(410, 20, 110, 36, "bits 20-12", "guest")
    picture.box(410, 100, 110, 50, "fourth", "plain")
    picture.arrow(465, 56, 465, 100)
    picture.box(550, 100, 110, 50, "page", "host")
    picture.box(550, 20, 110, 36, "bits 11-0", "guest")
    picture.arrow(605, 56, 605, 100)
    for x in (130, 260, 390, 520):
        picture.arrow(x, 125, x + (30 if x == 520 else 20), 125)
    picture.note(20, 190, "cr3 has the root's address. With flag 0x80 the third level is the last.")
    return picture


def booting_linux() -> Drawing:
    """Return the guest's memory before its first instruction."""
    picture = Drawing("Zero page, command line, kernel and initramfs in guest memory")
    for x, width, text, kind in (
        (20, 110, "0x7000\nzero page", "guest"),
        (140, 120, "0x20000\ncommand line", "guest"),
        (270, 120, "0x9fc00\nno RAM", "plain"),
        (400, 120, "16 MiB\nkernel", "host"),
        (530, 130, "near the end\ninitramfs", "host"),
    ):
        picture.box(x, 80, width, 60, text, kind)
    picture.note(20, 40, "rsi leads to the zero page, and that to the rest; rip is in the kernel.")
    picture.arrow(75, 80, 75, 48)
    picture.note(20, 175, "address 0")
    picture.note(580, 175, "end of RAM")
    return picture


def virtqueue() -> Drawing:
    """Return the three parts of a split virtqueue, and who writes them."""
    picture = Drawing("The driver writes table and available ring, the device the used ring")
    picture.box(20, 70, 130, 60, "driver\n(guest)", "guest")
    picture.box(240, 15, 200, 45, "descriptor table", "plain")
    picture.box(240, 78, 200, 45, "available ring", "plain")
    picture.box(240, 140, 200, 45, "used ring", "plain")
    picture.box(530, 70, 130, 60, "device\n(monitor)", "device")
    picture.arrow(150, 85, 240, 38)
    picture.arrow(150, 100, 240, 100)
    picture.arrow(530, 115, 440, 162)
    picture.arrow(440, 38, 530, 85)
    picture.arrow(440, 100, 530, 100)
    picture.arrow(240, 162, 150, 115)
    return picture


def first_device() -> Drawing:
    """Return the way of a chain to a method."""
    picture = Drawing("The queue hands a chain to a method and takes back its length")
    picture.box(20, 60, 120, 70, "driver", "guest")
    picture.box(220, 60, 180, 70, "queue\nchecks, copies once", "plain")
    picture.box(500, 60, 160, 70, "your method", "device")
    picture.arrow(140, 80, 220, 80, "chain")
    picture.arrow(400, 80, 500, 80, "chain")
    picture.arrow(500, 115, 400, 115, "length")
    picture.arrow(220, 115, 140, 115, "used")
    picture.note(220, 170, "Configuration fields stand beside the queues.")
    return picture


def interrupts() -> Drawing:
    """Return both calls, and where each side says that it wants none."""
    picture = Drawing("A kick and an interrupt, and what suppresses them")
    picture.box(20, 40, 150, 130, "driver", "guest")
    picture.box(510, 40, 150, 130, "device", "device")
    picture.arrow(170, 60, 510, 60, "kick: look at the available ring")
    picture.arrow(510, 90, 170, 90, "interrupt: look at the used ring")
    picture.arrow(170, 125, 510, 125, "used_event: interrupt me at this index")
    picture.arrow(510, 155, 170, 155, "avail_event: kick me at this index")
    return picture


def disk() -> Drawing:
    """Return the parts of a disk's request."""
    picture = Drawing("A request of a disk: header, data, status", height=160)
    picture.box(20, 40, 200, 60, "header, 16 bytes\ntype, sector", "guest")
    picture.box(240, 40, 250, 60, "data\nwritten by driver or device", "plain")
    picture.box(510, 40, 150, 60, "status\none byte", "device")
    picture.note(20, 135, "the device reads")
    picture.note(510, 135, "the device writes")
    return picture


def snapshots() -> Drawing:
    """Return a state and those who go on from it."""
    picture = Drawing("One saved state, from which any number of machines go on")
    picture.box(20, 75, 140, 50, "original", "guest")
    picture.box(240, 65, 180, 70, "state\nmemory, registers", "plain")
    picture.box(500, 20, 160, 45, "one clone", "guest")
    picture.box(500, 135, 160, 45, "another", "guest")
    picture.arrow(160, 100, 240, 100, "save")
    picture.arrow(420, 85, 500, 45)
    picture.arrow(420, 115, 500, 155)
    picture.note(420, 104, "restore")
    return picture


def driver() -> Drawing:
    """Return the values of the status in their order."""
    picture = Drawing("The status of a device, step by step", height=140)
    for index, text in enumerate(
        ("0\nreset", "1\nseen", "3\ndriver", "11\nfeatures", "11\nqueues", "15\ngo")
    ):
        x = 20 + 110 * index
        picture.box(x, 40, 85, 60, text, "device" if index in (0, 5) else "plain")
        if index:
            picture.arrow(x - 25, 70, x, 70)
    return picture


DRAWINGS: Final = {
    "01-first-instructions": first_instructions,
    "02-memory-slots": memory_slots,
    "03-ports-and-registers": ports_and_registers,
    "04-a-serial-port": serial_port,
    "05-long-mode": long_mode,
    "06-booting-linux": booting_linux,
    "07-a-virtqueue": virtqueue,
    "08-the-first-device": first_device,
    "09-interrupts": interrupts,
    "10-a-disk": disk,
    "11-snapshots": snapshots,
    "12-a-driver": driver,
}


def main() -> None:
    """Write each drawing beside its chapter."""
    for chapter, draw in DRAWINGS.items():
        (HERE / chapter / "drawing.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
