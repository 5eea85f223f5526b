"""The form of all objects that hold something of the host and must give it back."""

from typing import Self


class Resource:
    """Holds file descriptors or mappings until :meth:`close`; a ``with`` block closes it."""

    def close(self) -> None:
        """Give everything back."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
