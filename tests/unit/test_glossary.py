"""The glossary is in order, and leads to the places where its words are at home."""

import re
from pathlib import Path

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"
ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| \[`[^`]+`\]\(([^)]+)\) \|$", GLOSSARY.read_text(), re.M)


def test_every_line_of_the_table_is_a_word_with_a_place() -> None:
    lines = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("| ")]

    assert len(ROWS) == len(lines) - 1 > 0


def test_words_are_in_order() -> None:
    words = [word.lower() for word, _ in ROWS]

    assert words == sorted(words)


def test_every_place_is_there() -> None:
    assert [place for _, place in ROWS if not (GLOSSARY.parent / place).is_file()] == []
