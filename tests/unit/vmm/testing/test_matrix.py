"""One test for each kernel: which ones, and by what names."""

from pathlib import Path

import pytest

from vmm.testing.matrix import choices

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from pathlib import Path

def test_plain(guest):
    pass

@pytest.mark.guest(kernel="debian")
def test_single(guest):
    pass

@pytest.mark.guest(kernel=["default", "debian:6.12", Path("/boot/vmlinuz")], memory="64M")
@pytest.mark.parametrize("n", [1, 2])
def test_list(guest, n):
    pass

@pytest.mark.guest(kernel=["default", "debian"])
class TestClass:
    def test_all(self, guest):
        pass

    @pytest.mark.guest(cpus=2)
    def test_more_words(self, guest):
        pass

    @pytest.mark.guest(kernel="debian")
    def test_closest(self, guest):
        pass

def test_session(session_guest):
    pass

@pytest.mark.guest(kernel=[])
def test_empty(guest):
    pass

@pytest.mark.guest(kernel=["default", 5])
def test_wrong(guest):
    pass

def test_none():
    pass
"""


def names(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    pytester.makepyfile(test_it=TESTS)
    found = pytester.runpytest_inprocess("--collect-only", "-q", *arguments).outlines
    return [line.partition("::")[2] for line in found if "::" in line]


def test_list_makes_a_test_for_each_kernel(pytester: pytest.Pytester) -> None:
    assert names(pytester, "-k", "list or class") == [
        "test_list[default-1]",
        "test_list[default-2]",
        "test_list[debian:6.12-1]",
        "test_list[debian:6.12-2]",
        "test_list[vmlinuz-1]",
        "test_list[vmlinuz-2]",
        "TestClass::test_all[default]",
        "TestClass::test_all[debian]",
        "TestClass::test_more_words[default]",
        "TestClass::test_more_words[debian]",
        "TestClass::test_closest",
    ]


def test_command_line_takes_the_place_of_lists_and_of_no_word(pytester: pytest.Pytester) -> None:
    found = names(pytester, "--guest-kernel=host", "--guest-kernel=./x", "-k", "not TestClass")

    assert sorted(found) == [
        "test_empty",
        "test_list[host-1]",
        "test_list[host-2]",
        "test_list[x-1]",
        "test_list[x-2]",
        "test_none",
        "test_plain[host]",
        "test_plain[x]",
        "test_session[host]",
        "test_session[x]",
        "test_single",
        "test_wrong",
    ]


def test_tests_stay_as_they_are_without_a_list(pytester: pytest.Pytester) -> None:
    assert names(pytester, "-k", "plain or single or session or none") == [
        "test_plain",
        "test_single",
        "test_session",
        "test_none",
    ]


def test_kernels_are_named_once_and_apart() -> None:
    paths = [Path("/a/arch/x86/boot/bzImage"), Path("/b/arch/x86/boot/bzImage")]

    assert [one.label for one in choices(["debian", None, "debian", "default", *paths])] == [
        "debian",
        "default",
        "a/arch/x86/boot/bzImage",
        "b/arch/x86/boot/bzImage",
    ]


def test_name_beyond_ascii_is_written_in_it() -> None:
    assert [one.label for one in choices([Path("/é")])] == ["\\xe9"]
