"""The shared directories of a snapshot: named, not copied, and opened only if trusted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final

from virtio.errors import ConfigurationError
from virtio.saved import shown
from vmm.share.config import ShareConfig

_FOR_WRITING: Final = ",rw"
_PATH_CHARACTERS: Final = 4096


def check_shares_trusted(
    shares: Sequence[ShareConfig], where: str, trusted: Iterable[os.PathLike[str] | str]
) -> None:
    """Raise :class:`ConfigurationError` for a directory that is not in ``trusted``.

    One with ``,rw`` behind it may be shared for writing, too.
    """
    reading, writing = set(), set()
    for one in trusted:
        text = os.fspath(one)
        path = os.path.abspath(text.removesuffix(_FOR_WRITING))
        reading.add(path)
        if text.endswith(_FOR_WRITING):
            writing.add(path)
    for index, share in enumerate(shares):
        if share.source not in (writing if share.writable else reading):
            how = f"to {'change' if share.writable else 'read'}"
            option = f"--trust-share DIR{_FOR_WRITING if share.writable else ''}"
            raise ConfigurationError(
                f"{where}: its share {index} is {shown(share.source, _PATH_CHARACTERS)}, which is"
                f" outside of the folder: name it to let the guest have it {how} ({option},"
                " trust_shares)"
            )
