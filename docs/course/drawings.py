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


DRAWINGS: Final = {
    "01-first-instructions": first_instructions,
    "02-memory-slots": memory_slots,
    "03-ports-and-registers": ports_and_registers,
}


def main() -> None:
    """Write each drawing beside its chapter."""
    for chapter, draw in DRAWINGS.items():
        (HERE / chapter / "drawing.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
