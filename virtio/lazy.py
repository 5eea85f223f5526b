"""Names of a package whose modules are imported when one of them is used first: PEP 562."""

from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], *others: str
) -> tuple[Callable[[str], Any], list[str]]:
    """Return the ``__getattr__`` and the ``__all__`` of ``package``.

    ``homes`` maps each module of the package to the names that it gives, with blanks between them;
    ``others`` are public names that the package itself defines.

    >>> __getattr__, __all__ = lazy_names("virtio", {"errors": "DriverError Error"})
    >>> __all__
    ['DriverError', 'Error']
    >>> __getattr__("Error")
    <class 'virtio.errors.Error'>
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def look_up(name: str) -> Any:
        from importlib import import_module

        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    return look_up, sorted([*home_of, *others])
