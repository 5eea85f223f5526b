"""The pages of the documentation's site, before mkdocs has them."""

import runpy
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(PROJECT / "docs" / "build_site.py"))


def test_every_link_of_every_page_leads_somewhere(build: dict[str, Any], tmp_path: Path) -> None:
    build["copy_pages"](tmp_path)

    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")} == {
        page
        for entry in build["navigation"]()
        for pages in entry.values()
        for page in ([pages] if isinstance(pages, str) else pages)
    }


def test_link_that_leads_nowhere_ends_the_build(build: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=r"docs/testing.md: the link none.md leads nowhere"):
        build["turn_links"]("see [it](none.md)", "docs/testing.md", build["page_map"]())


def test_link_to_a_page_is_turned_and_keeps_its_anchor(build: dict[str, Any]) -> None:
    text = "[a](../docs/course/05-long-mode/index.md#try) [b](https://example.org/x) [c](#here)"

    assert build["turn_links"](text, "docs/testing.md", build["page_map"]()) == (
        "[a](course/05-long-mode/index.md#try) [b](https://example.org/x) [c](#here)"
    )


def test_link_to_a_source_becomes_its_words(build: dict[str, Any]) -> None:
    text = "the glossary's [`cli`](../vmm/cli/__init__.py)"

    assert build["turn_links"](text, "docs/glossary.md", build["page_map"]()) == (
        "the glossary's `cli`"
    )


def test_reference_names_what_a_package_offers(build: dict[str, Any]) -> None:
    page = build["reference"]("virtio")

    assert "::: virtio.device.declaration.Device\n" in page
    assert "lazy_names" not in page
