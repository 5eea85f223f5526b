"""How the processors of a machine are put together: sockets, cores, threads.

A guest's scheduler treats threads of a core, and cores of a socket, as near to each other.
"""

from typing import Final

from virtio.dataclass import dataclass
from virtio.errors import ConfigurationError

_PARTS: Final = ("sockets", "cores", "threads")


@dataclass(frozen=True, slots=True)
class CpuTopology:
    """``sockets``, each with so many ``cores``, each of so many ``threads``: the processors.

    >>> CpuTopology(sockets=2, cores=4, threads=2).cpus
    16
    """

    sockets: int = 1
    cores: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        for name in _PARTS:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{getattr(self, name)} {name}: must be 1 or more")

    @property
    def cpus(self) -> int:
        """The number of processors."""
        return self.sockets * self.cores * self.threads

    def __str__(self) -> str:
        return f"sockets={self.sockets},cores={self.cores},threads={self.threads}"


def parse_cpus(text: str) -> tuple[int, CpuTopology | None]:
    """Return the number of processors and how they are put together, None where nothing is said.

    Of what is left out, threads and sockets are 1, and cores are as many as are needed; where the
    cores are given, it is the sockets.

    >>> parse_cpus("4")
    (4, None)
    >>> parse_cpus("8,threads=2")
    (8, CpuTopology(sockets=1, cores=4, threads=2))
    >>> parse_cpus("8,cores=2,threads=2")
    (8, CpuTopology(sockets=2, cores=2, threads=2))
    """
    count, *words = text.split(",")
    given = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in _PARTS or name in given:
            raise _unreadable(text)
        given[name] = _number(number, text)
    cpus = _number(count, text)
    return cpus, _completed(cpus, given, text) if given else None


def check_topology(cpus: int, topology: CpuTopology | None) -> None:
    """Raise :class:`ConfigurationError` unless a topology has so many processors."""
    if topology is not None and topology.cpus != cpus:
        raise ConfigurationError(f"{cpus} processors: {topology} makes {topology.cpus}")


def _completed(cpus: int, given: dict[str, int], text: str) -> CpuTopology:
    known = 1
    for number in given.values():
        known *= number
    left = next((name for name in ("cores", "sockets", "threads") if name not in given), None)
    if left is not None:
        if not known or cpus % known:
            raise ConfigurationError(
                f"processors {text!r}: {cpus} is no multiple of {known}, so there is no number"
                f" of {left} for it"
            )
        given = given | {left: cpus // known}
    topology = CpuTopology(**given)
    check_topology(cpus, topology)
    return topology


def _number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _unreadable(whole)
    return int(text)


def _unreadable(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"processors {text!r}: must be N[,sockets=S][,cores=C][,threads=T], all of them numbers"
    )
