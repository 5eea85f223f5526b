"""Reads the JUnit XML of two runs of the tests, and tells where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from virtio.errors import ConfigurationError

PASSED: Final = "passed"
SKIPPED: Final = "skipped"
FAILED: Final = "failed"
_MEANING: Final = {"failure": FAILED, "error": FAILED, "skipped": SKIPPED}

Outcomes = Mapping[str, tuple[str, str]]
"""Of each test, by its name: what became of it, and the first line that was said about it."""


def outcomes(report: Path) -> dict[str, tuple[str, str]]:
    """Return the outcomes of a run; a test that failed anywhere in it has failed.

    Raises ``ConfigurationError`` when the file cannot be read or is no JUnit XML.
    """
    try:
        root = ElementTree.parse(report).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ConfigurationError(f"{report}: no JUnit XML: {error}") from None
    found: dict[str, tuple[str, str]] = {}
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        outcome = _outcome(case)
        if name not in found or outcome[0] == FAILED:
            found[name] = outcome
    return found


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    told = [child for child in case if child.tag in _MEANING]
    if not told:
        return PASSED, ""
    worst = next((one for one in told if _MEANING[one.tag] == FAILED), told[0])
    lines = (worst.get("message") or worst.text or "").strip().splitlines()
    return _MEANING[worst.tag], lines[0] if lines else ""


def differences(outside: Outcomes, inside: Outcomes) -> Iterator[str]:
    """Return a line for each test that ended otherwise on the host inside.

    A test that ran on one host alone is a difference where the other one skipped it, and none where
    it was not among the tests at all.
    """
    for name in sorted(inside):
        here, reason = inside[name]
        if name in outside and outside[name][0] != here:
            there, other_reason = outside[name]
            why = reason or other_reason
            yield f"{name}: {there} outside, {here} inside{': ' if why else ''}{why}"
