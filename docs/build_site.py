"""Builds the site of the documentation: ``python docs/build_site.py [FOLDER]``, or ``make docs``.

Its pages are the files that stand in the repository anyway. They are copied to
``build/docs-pages`` first, where links between them become links of the site, and links to files of
the repository that are no page become plain text. mkdocs then builds the site, and refuses a link
that leads nowhere.
"""

import ast
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
BUILD: Final = ROOT / "build"

TOUR: Final = {"README.md": "index.md"}
RESULTS: Final = {
    "tests/spec/CONFORMANCE.md": "conformance.md",
    "tests/spec/DRIVERS.md": "drivers.md",
    "tests/perf/results/README.md": "performance.md",
    "tests/hosts/KERNELS.md": "kernels.md",
}
REFERENCE: Final = (
    *("virtio", "virtio.testing", "transport", "transport.testing"),
    *("vmm", "vmm.testing", "vmm.snapshot", "vmm.agent"),
)

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def page_map() -> dict[str, str]:
    """Return where each file of the repository that is a page stands in the site."""
    pages = TOUR | RESULTS
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT).as_posix()
        pages[name] = name.removeprefix("docs/")
    return pages


def turn_links(text: str, source: str, pages: dict[str, str]) -> str:
    """Return a page whose links lead to pages of the site.

    >>> turn_links("[a](b.md) [c](d.py)", "docs/x.md", {"docs/x.md": "x.md", "docs/b.md": "b.md"})
    '[a](b.md) c'
    """
    here = posixpath.dirname(pages[source])

    def turned(match: re.Match[str]) -> str:
        words, link = match.groups()
        target, hash_sign, anchor = link.partition("#")
        if ":" in target or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path not in pages:
            if not (ROOT / path).exists():
                raise SystemExit(f"{source}: the link {link} leads nowhere")
            return words
        return f"[{words}]({posixpath.relpath(pages[path], here or '.')}{hash_sign}{anchor})"

    return _LINK.sub(turned, text)


def copy_pages(folder: Path) -> None:
    """Write all pages and pictures to a folder, as mkdocs wants them."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = page_map()
    for source, target in pages.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for name in _PICTURE.findall(text):
            picture = (ROOT / source).parent / name[1]
            place = (folder / target).parent / name[1]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, place)
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        chapter = (ROOT / source).parent
        text = turn_links(text, source, pages)
        if (chapter / "program.py").exists():
            text += _listing("The program", chapter / "program.py")
            text += _listing("The exercise, to begin with", chapter / "exercise.py")
        (folder / target).write_text(text, encoding="utf-8")
    for package in REFERENCE:
        place = folder / "reference" / f"{package}.md"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(reference(package), encoding="utf-8")


def _listing(title: str, path: Path) -> str:
    return f"\n## {title}\n\n```python\n{path.read_text(encoding='utf-8')}```\n"


def reference(package: str) -> str:
    """Return the page of a package: each public name, from the docstring where it is at home."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text("utf-8"))
    lines = [f"# {package}", "", (ast.get_docstring(tree) or "").partition("\n\n")[0], ""]
    homes = {
        (alias.asname or alias.name): f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.split(".")[0] in ("virtio", "transport", "vmm")
        for alias in node.names
        if not alias.name.startswith("_") and alias.name != "lazy_names"
    }
    for name in sorted(homes):
        lines += [f"::: {homes[name]}", ""]
    return "\n".join(lines)


def navigation() -> list[dict[str, str | list[str]]]:
    """Return what mkdocs calls ``nav``: the order of the pages."""
    own = {page for page in page_map().values() if page not in RESULTS.values()}
    course = sorted(page for page in own if page.startswith("course/"))
    course.insert(0, course.pop(course.index("course/index.md")))
    guides = sorted(own - {"index.md", "glossary.md", *course})
    return [
        {"Tour": "index.md"},
        {"Course": course},
        {"Guides": guides},
        {"Reference": [f"reference/{package}.md" for package in REFERENCE]},
        {"Results": list(RESULTS.values())},
        {"Glossary": "glossary.md"},
    ]


def main() -> None:
    """Copy the pages, and build the site into the folder that is given."""
    folder = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else BUILD / "docs"
    copy_pages(BUILD / "docs-pages")
    settings = {"INHERIT": "../mkdocs.yml", "docs_dir": "docs-pages", "nav": navigation()}
    config = BUILD / "docs.yml"
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")  # which is YAML, too
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean"]
    done = subprocess.run(
        [*command, "--config-file", str(config), "--site-dir", str(folder)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    print(folder / "index.html")


if __name__ == "__main__":
    main()
