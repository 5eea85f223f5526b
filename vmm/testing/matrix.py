"""One test for each of several kernels: which ones a test wants, and how it is named then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from virtio.named_tuple import NamedTuple
from vmm.kernel_choice import kernel_choice

DEFAULT: Final = "default"
FIXTURE: Final = "guest_kernel"
_GUESTS: Final = frozenset({"guest", "session_guest"})


class KernelChoice(NamedTuple):
    """A kernel of several, and the name that it has among them."""

    kernel: str | Path
    label: str


def kernel_named(text: str) -> str | Path:
    """Return what ``--guest-kernel`` names: "default", a name, or a path."""
    return text if text == DEFAULT else kernel_choice(text)


def choices(kernels: Iterable[str | Path | None]) -> list[KernelChoice]:
    """Return kernels with names that tell them apart: of a path as many parts as that takes.

    >>> [one.label for one in choices([None, "debian:6.12", Path("/a/Image"), Path("/b/Image")])]
    ['default', 'debian:6.12', 'a/Image', 'b/Image']
    """
    wanted = list(dict.fromkeys(DEFAULT if one is None else one for one in kernels))
    return [KernelChoice(*pair) for pair in zip(wanted, _labels(wanted), strict=True)]


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Make one test for each kernel that the command line or the closest marker lists.

    The command line takes the place of a list, and of no word on the kernel. A marker that names a
    single one is kept: its test is about that kernel.
    """
    if FIXTURE not in metafunc.fixturenames:
        return
    guests = _GUESTS & set(metafunc.fixturenames)
    said = _said(metafunc.definition)
    listed = list(said) if _is_list(said) else []
    if said is not None and not listed and guests == {"guest"}:
        return
    named = metafunc.config.getoption("guest_kernels")
    wanted = choices(map(kernel_named, named) if named else listed)
    if wanted:
        labels = [one.label for one in wanted]
        scope: Literal["session", "function"]
        scope = "session" if "session_guest" in guests else "function"
        metafunc.parametrize(FIXTURE, wanted, indirect=True, ids=labels, scope=scope)


def choice_of(item: pytest.Item) -> KernelChoice | None:
    """Return the kernel that a test was made for, None for one that is not one of several."""
    call: Any = getattr(item, "callspec", None)
    found = None if call is None else call.params.get(FIXTURE)
    return found if isinstance(found, KernelChoice) else None


def row_of(item: pytest.Item, choice: KernelChoice) -> str:
    """Return what a test is called without its kernel.

    ``a.py::test[debian-3]`` is ``a.py::test[3]`` then.
    """
    name, bracket, rest = item.nodeid.partition("[")
    label = choice.label
    for found, left in (
        (f"[{label}]", ""),
        (f"[{label}-", "["),
        (f"-{label}]", "]"),
        (f"-{label}-", "-"),
    ):
        if found in bracket + rest:
            return name + (bracket + rest).replace(found, left, 1)
    return item.nodeid


def _said(definition: Any) -> Any:
    for marker in definition.iter_markers("guest"):
        if "kernel" in marker.kwargs:
            return marker.kwargs["kernel"]
    return None


def _is_list(said: Any) -> bool:
    """Whether this lists kernels; what is wrong in a marker is told when its test runs."""
    if not isinstance(said, list | tuple) or not said:
        return False
    return all(one is None or isinstance(one, str | Path) for one in said)


def _labels(kernels: Sequence[str | Path]) -> list[str]:
    parts = {one: len(one.parts) for one in kernels if isinstance(one, Path)}
    for most in range(1, max(parts.values(), default=1) + 1):
        labels = [_label(one, most) for one in kernels]
        if max(Counter(labels).values(), default=1) == 1:
            return labels
    return [str(one) for one in kernels]


def _label(kernel: str | Path, parts: int) -> str:
    text = kernel if isinstance(kernel, str) else "/".join(kernel.parts[-parts:])
    return text.encode("ascii", "backslashreplace").decode()
