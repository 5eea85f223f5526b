"""What belongs to the host and must be given back: the form that all such objects here share."""

from typing import Self


class Resource:
    """Holds file descriptors or mappings until :meth:`close`; a ``with`` block closes it."""

    def close(self) -> None:
        """Give back what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
