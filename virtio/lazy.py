"""Names of a package whose modules are imported when one of them is used first: PEP 562."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of ``package``; ``homes`` says which module has which names."""

    def look_up(name: str) -> Any:
        from importlib import import_module

        for home, names in homes.items():
            if name in names:
                return getattr(import_module(f"{package}.{home}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return look_up
