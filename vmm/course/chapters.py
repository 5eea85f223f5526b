"""The chapters as files of the package; in the project they are ``docs/course``."""

from pathlib import Path
from typing import Final

from virtio.errors import ConfigurationError

FILES: Final = Path(__file__).parents[1] / "course_files"


class Chapter:
    """One chapter: its number, the ``folder`` with its files, and its title."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = int(folder.name.partition("-")[0])

    @property
    def name(self) -> str:
        """The name of its folder, such as ``01-first-instructions``."""
        return self.folder.name

    @property
    def text(self) -> Path:
        """The page."""
        return self.folder / "index.md"

    @property
    def program(self) -> Path:
        """The program that the page explains."""
        return self.folder / "program.py"

    @property
    def exercise(self) -> Path:
        """The file that the reader completes."""
        return self.folder / "exercise.py"

    @property
    def answer(self) -> Path:
        """A solution of the exercise."""
        return self.folder / "answer.py"

    @property
    def title(self) -> str:
        """The heading of the page, without the number."""
        with self.text.open(encoding="utf-8") as page:
            return page.readline().strip().partition(". ")[2]


def chapters() -> list[Chapter]:
    """Return all chapters in their order."""
    return [Chapter(path.parent) for path in sorted(FILES.glob("[0-9]*/index.md"))]


def chapter(number: str) -> Chapter:
    """Return one chapter. Raises :class:`ConfigurationError` for a number that none has."""
    found = chapters()
    for one in found:
        if number in (str(one.number), f"{one.number:02}"):
            return one
    raise ConfigurationError(f"chapter {number}: must be 1 to {len(found)}; vmm course lists them")
