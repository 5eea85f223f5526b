"""Reads kernel configuration fragments, and finds the options that a configuration did not take.

Linux kbuild/kconfig.rst: ``make`` drops options that depend on others in silence, so the result
must be compared with the fragment.
"""

from __future__ import annotations

import re

from virtio.errors import ConfigurationError

_SETTING = re.compile(r"(CONFIG_\w+)=(.+)")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")


def parse(text: str, where: str) -> dict[str, str]:
    """Return the options of a fragment or a ``.config`` with their values; unset ones have "n".

    >>> parse("CONFIG_PCI=y\\n# CONFIG_SMP is not set\\n", "here")
    {'CONFIG_PCI': 'y', 'CONFIG_SMP': 'n'}

    Comments and empty lines are skipped; any other line raises ``ConfigurationError`` with
    ``where`` and its number, as does an option given twice.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _SETTING.fullmatch(line.strip()) or _UNSET.fullmatch(line.strip())
        if found is None:
            if line.strip() and not line.startswith("#"):
                raise ConfigurationError(f"{where}:{number}: {line!r}: not CONFIG_NAME=value")
            continue
        name, value = found[1], found[2] if found.re is _SETTING else "n"
        if name in options:
            raise ConfigurationError(f"{where}:{number}: {name} is given twice")
        options[name] = value
    return options


def unmet(wanted: dict[str, str], got: dict[str, str]) -> list[str]:
    """Return a text for each wanted option that has another value in ``got``.

    >>> unmet({"CONFIG_PCI": "y", "CONFIG_SMP": "n"}, {"CONFIG_PCI": "m"})
    ['CONFIG_PCI=y (got m)']
    """
    return [
        f"{name}={value} (got {got.get(name, 'n')})"
        for name, value in wanted.items()
        if got.get(name, "n") != value
    ]
