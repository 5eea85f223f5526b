"""The site of the documentation, built and looked at in a browser.

It needs the extra ``docs`` and the Debian package ``chromium``, which ``make setup`` does not
install: ``make docs`` runs this.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")

PAGES = ("index.html", "course/05-long-mode/index.html", "conformance.html")
WIDTHS = (1280, 390)

# Elements that are wider than the page and cannot be scrolled by themselves.
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN_PICTURES = """
[...document.querySelectorAll('article img')].filter(one => !one.naturalWidth).map(one => one.src)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed: make docs")
    pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed: make docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "docs/build_site.py", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="make docs installs playwright")
    if CHROMIUM is None:
        pytest.skip("there is no browser: install the Debian package chromium")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_page_is_whole_and_fits_its_width(
    site: Path, browser: Any, page: str, width: int, tmp_path: Path
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    failed = list[str]()
    tab.on("requestfailed", lambda request: failed.append(request.url))
    tab.goto((site / page).as_uri())
    shots = PROJECT / "build" / "docs-shots"
    shots.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=shots / f"{page.replace('/', '-').removesuffix('.html')}-{width}.png")

    assert tab.locator("article h1").first.is_visible()
    assert tab.evaluate(OVERFLOW) <= 0
    assert tab.evaluate(BROKEN_PICTURES) == []
    assert failed == []
    tab.close()


def test_reference_has_the_docstrings(site: Path) -> None:
    text = (site / "reference" / "virtio.html").read_text()

    assert "A virtio device without a transport" in text
