"""The pages of the documentation's site, before mkdocs has them."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from docs.pictures.draw import request

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


def test_picture_of_a_request_has_its_steps_in_their_order(tmp_path: Path) -> None:
    asked = {"descriptors": "8 sectors at 16, chain 3 [-16 +4096 +1]", "written": 4097}
    slices = [
        ("block0", "read 8 sectors at 0", 10, 20, asked),
        ("block0", "device", 12, 5, {}),
        ("vCPUs", "block0 InterruptStatus -> used buffers", 35, 5, {}),
        ("block0", "read 8 sectors at 16", 100, 81.3, asked),
        ("block0", "device", 144.4, 11.1, {}),
        ("vCPUs", "block0 InterruptStatus -> used buffers", 948.9, 5, {}),
        ("vCPUs", "block0 InterruptACK = used buffers", 1035.4, 5, {}),
        ("vCPUs", "block0 InterruptStatus -> used buffers", 2000, 5, {}),
    ]
    names = ("cat", "name", "ts", "dur", "args")
    events = [{"ph": "X"} | dict(zip(names, one, strict=True)) for one in slices]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps([{"ph": "M", "name": "thread_name"}, *events]))

    texts = re.findall(r">([^<>]+)</text>", request(trace))

    assert texts[3:] == [
        *("0.0", "kick"),
        *("44.4", "taken: 8 sectors at 16, chain 3 [-16 +4096 +1]"),
        *("55.5", "completed: 4097 bytes written"),
        *("81.3", "interrupt"),
        *("848.9", "InterruptStatus -&gt; used buffers"),
        *("935.4", "InterruptACK = used buffers"),
    ]
