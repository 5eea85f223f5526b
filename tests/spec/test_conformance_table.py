"""The committed table of items and tests, and the catalogue behind it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.spec import report
from tests.spec.catalogue import ITEMS, Case, Catalogue, Item, load
from tests.spec.conformance import ROOT


def case(*items: str, outcomes: Sequence[str] = ("passed",)) -> Case:
    return Case("tests/spec/test_x.py", "test_x", set(items), 1, list(outcomes))


@pytest.fixture
def catalogue() -> Catalogue:
    one = Item("XYZ-01", "does <this>", "MUST", "Section")
    other = Item("XYZ-02", "does that", "MAY", "Section", "there is no such thing")
    return Catalogue({"XYZ": "Letters"}, {"XYZ-01": one, "XYZ-02": other})


@pytest.mark.timeout(900)
def test_the_committed_table_is_current() -> None:
    command = [sys.executable, "-m", "tests.spec.conformance", "--check"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)

    assert (done.stderr, done.returncode) == ("", 0)


def test_the_catalogue_has_every_item_of_every_group() -> None:
    sizes = {group: len(load().of_group(group)) for group in load().groups}

    expected = {
        "COM": 33,
        "SPL": 46,
        "PKD": 22,
        "MMIO": 39,
        "PCI": 64,
        "RNG": 6,
        "BLK": 43,
        "NET": 30,
        "CON": 13,
        "VSK": 15,
        "BAL": 6,
        "FS": 6,
    }
    assert sizes == expected


def test_an_item_with_a_test_that_passed_is_no_problem(catalogue: Catalogue) -> None:
    assert catalogue.assign([case("XYZ-01")]) == []
    assert [one.verdict for one in catalogue.items.values()] == ["passed", "not applicable"]


def test_an_item_without_a_test_is_a_problem(catalogue: Catalogue) -> None:
    [problem] = catalogue.assign([])

    assert problem.startswith("XYZ-01: has no test")


def test_a_test_that_failed_is_a_problem(catalogue: Catalogue) -> None:
    passed, failed = case("XYZ-01"), case("XYZ-01", outcomes=["passed", "failed"])

    assert catalogue.assign([passed, failed]) == ["XYZ-01: tests/spec/test_x.py::test_x failed"]
    assert catalogue.items["XYZ-01"].verdict == "failed"


def test_a_test_of_an_unknown_item_is_a_problem(catalogue: Catalogue) -> None:
    problems = catalogue.assign([case("XYZ-01", "XYZ-03")])

    assert problems == ["tests/spec/test_x.py::test_x: there is no item XYZ-03"]


def test_a_test_of_an_item_that_does_not_apply_is_a_problem(catalogue: Catalogue) -> None:
    [problem] = catalogue.assign([case("XYZ-01", "XYZ-02")])

    assert problem.startswith("XYZ-02: has a test, and a reason")


def test_a_skipped_test_proves_nothing_and_fails_nothing(catalogue: Catalogue) -> None:
    assert catalogue.assign([case("XYZ-01", outcomes=["skipped"])]) == []
    assert catalogue.items["XYZ-01"].verdict == "skipped"


def test_an_item_of_no_group_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.toml"
    path.write_text(ITEMS.read_text().replace("[groups]", "[groups]\nNEW = 'x'\n[others]"))

    with pytest.raises(ValueError, match="COM-01, COM-02"):
        load(path)


def test_the_page_escapes_and_shows_every_item_with_its_verdict(catalogue: Catalogue) -> None:
    catalogue.assign([case("XYZ-01", outcomes=["failed"])])

    page = report.html(catalogue)

    assert "does &lt;this&gt;" in page
    assert '<span class="verdict failed">failed</span>' in page
    assert '<span class="verdict not-applicable">not applicable</span>' in page
    assert "there is no such thing" in page


def test_the_terminal_shows_tests_with_the_number_of_their_cases(catalogue: Catalogue) -> None:
    catalogue.assign([case("XYZ-01")])

    text = report.terminal(catalogue, colour=False)

    assert "XYZ  Letters: 1 passed, 1 not applicable" in text
    assert "tests/spec/test_x.py: test_x (1)" in text
    assert "\x1b" not in text


def test_the_table_links_the_files_of_the_tests(catalogue: Catalogue) -> None:
    catalogue.assign([case("XYZ-01")])

    assert "[test_x.py](test_x.py): `test_x` |\n" in report.markdown(catalogue)
