"""What became of each test under each kernel stands in one grid, at the end and in JUnit."""

from xml.etree import ElementTree

import pytest

pytest_plugins = ["pytester"]

CONFTEST = """
import pytest

@pytest.fixture
def guest(guest_kernel):
    if guest_kernel.label == "errs":
        raise OSError("no guest")
    yield guest_kernel
    if guest_kernel.label == "late":
        raise OSError("no end")
"""

TESTS = """
import pytest

pytestmark = pytest.mark.guest(kernel=["fine", "fails", "errs", "late"])

def test_one(guest):
    assert guest.label != "fails"

@pytest.mark.parametrize("n", [7])
def test_two(guest, n):
    if guest.label == "fails":
        pytest.skip("not there")

@pytest.mark.skip
def test_three(guest):
    pass

@pytest.mark.xfail
def test_four(guest):
    assert guest.label == "fine"

@pytest.mark.guest(kernel=["fine"])
def test_five(guest):
    pass
"""

GRID = """\
                         fine   fails  errs   late
test_it.py::test_one     pass   FAIL   error  error
test_it.py::test_two[7]  pass   skip   error  error
test_it.py::test_three   skip   skip   skip   skip
test_it.py::test_four    xpass  xfail  xfail  xfail
test_it.py::test_five    pass
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_grid_is_shown_and_in_junit(pytester: pytest.Pytester, workers: int) -> None:
    pytest.importorskip("xdist")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)

    run = pytester.runpytest_subprocess("-n", str(workers), "--junit-xml=run.xml")

    lines = run.outlines
    at = next(number for number, line in enumerate(lines) if " guest kernels " in line)
    assert sorted(lines[at + 2 : at + 7]) == sorted(GRID.splitlines()[1:])
    suite = ElementTree.parse(pytester.path / "run.xml").find("testsuite")
    assert suite is not None
    told = {one.attrib["name"]: one.attrib["value"] for one in suite.findall("properties/property")}
    assert set(told["guest kernels: test_it.py::test_one"].split()) == {
        "fine=pass",
        "fails=FAIL",
        "errs=error",
        "late=error",
    }
    kernels = {
        case.attrib["name"]: one.attrib["value"]
        for case in suite.iter("testcase")
        for one in case.findall("properties/property")
    }
    assert kernels["test_two[errs-7]"] == "errs"
    assert kernels["test_three[late]"] == "late"


def test_run_of_one_kernel_that_nobody_named_has_no_grid(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_one():\n    pass\n")

    assert "guest kernels" not in pytester.runpytest_inprocess().stdout.str()
