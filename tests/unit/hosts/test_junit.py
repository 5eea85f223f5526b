"""Two runs of the tests are compared by their JUnit XML: a line for each that ended otherwise."""

from pathlib import Path

import pytest

from tests.hosts.junit import differences, outcomes
from virtio.errors import ConfigurationError


def report(folder: Path, name: str, *cases: str) -> Path:
    path = folder / name
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def case(name: str, inside: str = "") -> str:
    return f'<testcase classname="tests.guest.test_a" name="{name}">{inside}</testcase>'


def compared(folder: Path, outside: str, inside: str) -> list[str]:
    there = report(folder, "outside.xml", outside)
    here = report(folder, "inside.xml", inside)
    return list(differences(outcomes(there), outcomes(here)))


FAILURE = '<failure message="assert 1 == 2&#10;more">trace</failure>'
ERROR = "<error>at setup\nof it</error>"
SKIPPED = '<skipped message="no compiler"/>'


@pytest.mark.parametrize(
    ("outside", "inside", "line"),
    [
        ("", FAILURE, "passed outside, failed inside: assert 1 == 2"),
        (FAILURE, "", "failed outside, passed inside: assert 1 == 2"),
        ("", ERROR, "passed outside, failed inside: at setup"),
        ("", SKIPPED, "passed outside, skipped inside: no compiler"),
        (SKIPPED, "", "skipped outside, passed inside: no compiler"),
        (SKIPPED, FAILURE, "skipped outside, failed inside: assert 1 == 2"),
    ],
)
def test_test_that_ended_otherwise_has_a_line(
    tmp_path: Path, outside: str, inside: str, line: str
) -> None:
    found = compared(tmp_path, case("one", outside), case("one", inside))

    assert found == [f"tests.guest.test_a::one: {line}"]


@pytest.mark.parametrize("result", ["", FAILURE, SKIPPED])
def test_same_end_is_no_difference(tmp_path: Path, result: str) -> None:
    assert compared(tmp_path, case("one", result), case("one", result)) == []


def test_failure_and_error_are_the_same_end(tmp_path: Path) -> None:
    assert compared(tmp_path, case("one", FAILURE), case("one", ERROR)) == []


def test_test_of_one_run_alone_is_no_difference(tmp_path: Path) -> None:
    assert compared(tmp_path, case("one"), case("two", FAILURE)) == []


def test_test_that_passes_and_then_fails_to_clean_up_has_failed(tmp_path: Path) -> None:
    found = outcomes(report(tmp_path, "one.xml", case("one"), case("one", ERROR)))

    assert found == {"tests.guest.test_a::one": ("failed", "at setup")}


def test_tests_of_one_name_in_two_files_are_two(tmp_path: Path) -> None:
    other = '<testcase classname="tests.guest.test_b" name="one"/>'

    assert len(outcomes(report(tmp_path, "one.xml", case("one"), other))) == 2


@pytest.mark.parametrize("content", ["", "<testsuites>", "junk"])
def test_what_is_no_junit_xml_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "cut.xml").write_text(content)

    with pytest.raises(ConfigurationError, match=r"cut\.xml: no JUnit XML"):
        outcomes(tmp_path / "cut.xml")
