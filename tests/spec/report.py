"""The conformance table in three forms: for the terminal, for the repository, for a browser.

None holds a time or a duration, so that equal results give equal text.
"""

from collections import Counter
from html import escape
from itertools import groupby
from pathlib import Path

from tests.spec.catalogue import Case, Catalogue, Item, Verdict

COLOURS: dict[Verdict, str] = {
    "passed": "\x1b[32m",
    "failed": "\x1b[31;1m",
    "untested": "\x1b[31;1m",
    "skipped": "\x1b[33m",
    "not run": "\x1b[33m",
    "not applicable": "\x1b[2m",
}
RESET = "\x1b[0m"
STYLE = Path(__file__).with_name("conformance.css")


def summary(items: list[Item]) -> str:
    """Return how many items there are of each verdict, as one phrase."""
    counts = Counter(item.verdict for item in items)
    return ", ".join(f"{counts[one]} {one}" for one in COLOURS if counts[one])


def _by_file(tests: list[Case]) -> list[tuple[str, list[Case]]]:
    return [(path, list(cases)) for path, cases in groupby(tests, key=lambda one: one.path)]


# Terminal


def terminal(catalogue: Catalogue, *, colour: bool) -> str:
    """Return the table as plain text, or with the colours of a terminal."""
    lines = []
    for group, title in catalogue.groups.items():
        items = catalogue.of_group(group)
        lines += ["", f"{group}  {title}: {summary(items)}"]
        for item in items:
            lines += _terminal_item(item, colour=colour)
    return "\n".join([*lines, "", f"{len(catalogue.items)} items: {_total(catalogue)}"])


def _terminal_item(item: Item, *, colour: bool) -> list[str]:
    verdict = f"{item.verdict:14}"
    if colour:
        verdict = f"{COLOURS[item.verdict]}{verdict}{RESET}"
    lines = [f"  {item.id:7}  {verdict}  {item.says} ({item.strength})"]
    for path, cases in _by_file(item.tests):
        names = ", ".join(f"{one.name} ({one.number})" for one in cases)
        lines.append(f"{'':27}{path}: {names}")
    if item.remark:
        lines.append(f"{'':27}{item.remark}")
    return lines


def _total(catalogue: Catalogue) -> str:
    return summary(list(catalogue.items.values()))


# Markdown


def markdown(catalogue: Catalogue) -> str:
    """Return the table that is committed: which tests prove which item, no outcomes."""
    proved = sum(bool(item.tests) for item in catalogue.items.values())
    parts = [
        "# Conformance to VIRTIO 1.4, item by item\n\n"
        f"{len(catalogue.items)} items, {proved} of them with tests that fail when the item does"
        " not hold. A plus marks\na rule of this project, where the specification binds only the"
        " driver or is silent.\n`make conformance` runs the tests and writes this file; a test sees"
        " that it is current.\n"
    ]
    for group, title in catalogue.groups.items():
        rows = [_markdown_row(item) for item in catalogue.of_group(group)]
        head = "| Item | The device | Strength | VIRTIO 1.4 | Tests |\n|---|---|---|---|---|\n"
        parts.append(f"\n## {group}: {title}\n\n{head}{''.join(rows)}")
    return "".join(parts)


def _markdown_row(item: Item) -> str:
    proof = "<br>".join(_markdown_file(path, cases) for path, cases in _by_file(item.tests))
    cells = (item.id, item.says, item.strength, item.section, proof or f"*{item.not_applicable}*")
    return f"| {' | '.join(cells)} |\n"


def _markdown_file(path: str, cases: list[Case]) -> str:
    link = path.removeprefix("tests/spec/").replace("tests/", "../")
    names = ", ".join(f"`{case.name.replace('::', '.')}`" for case in cases)
    return f"[{Path(path).name}]({link}): {names}"


# Browser


def html(catalogue: Catalogue) -> str:
    """Return a page that needs no other file; the colours follow the reader's light or dark."""
    sections = "".join(
        _html_group(group, title, catalogue.of_group(group))
        for group, title in catalogue.groups.items()
    )
    tiles = "".join(_html_tile(group, catalogue.of_group(group)) for group in catalogue.groups)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>Conformance to VIRTIO 1.4</title>\n"
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        f"<header>\n<h1>Conformance to VIRTIO 1.4</h1>\n<p>{len(catalogue.items)} items:"
        f" {_total(catalogue)}. A plus marks a rule of this project where the specification binds"
        f" only the driver or is silent.</p>\n<nav>{tiles}</nav>\n</header>\n"
        f"<main>\n{sections}</main>\n</html>\n"
    )


def _html_tile(group: str, items: list[Item]) -> str:
    passed = sum(item.verdict == "passed" for item in items)
    verdicts = {item.verdict for item in items}
    kind = "failed" if verdicts & {"failed", "untested"} else "passed"
    return (
        f'<a class="{kind}" href="#{group}"><b>{group}</b>{passed} of {len(items)}'
        f'<meter max="{len(items)}" value="{passed}">{passed}</meter></a>'
    )


def _html_group(group: str, title: str, items: list[Item]) -> str:
    rows = "".join(map(_html_row, items))
    return (
        f'<section id="{group}">\n<h2>{group} <small>{escape(title)}</small></h2>\n'
        f"<p>{summary(items)}</p>\n<table>\n<thead><tr><th>Item<th>Result<th>The device"
        f"<th>Strength<th>VIRTIO 1.4</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )


def _html_row(item: Item) -> str:
    kind = item.verdict.replace(" ", "-")
    return (
        f'<tr id="{item.id}"><td><a href="#{item.id}">{item.id}</a>'
        f'<td><span class="verdict {kind}">{item.verdict}</span>'
        f"<td>{escape(item.says)}{_html_tests(item)}"
        f"<td>{item.strength}<td>{escape(item.section)}</tr>\n"
    )


def _html_tests(item: Item) -> str:
    remark = f"<em>{escape(item.remark)}</em>" if item.remark else ""
    if not item.tests:
        return remark
    number = sum(test.number for test in item.tests)
    files = "".join(
        f"<li><code>{escape(path)}</code><ul>{''.join(map(_html_test, cases))}</ul>"
        for path, cases in _by_file(item.tests)
    )
    plural = "" if number == 1 else "s"
    return f"{remark}<details><summary>{number} case{plural}</summary><ul>{files}</ul></details>"


def _html_test(case: Case) -> str:
    kind = case.verdict.replace(" ", "-")
    return f'<li class="{kind}">{escape(case.name)} <small>({case.number})</small>'
