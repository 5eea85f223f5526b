"""The file system device, and what it needs of the file system behind it."""

from virtio.fs.device import Fs
from virtio.fs.filesystem import FileSystem

__all__ = ["FileSystem", "Fs"]
