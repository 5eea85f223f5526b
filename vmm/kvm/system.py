"""The system file descriptor, ``/dev/kvm``: the abilities of this host's KVM, and new machines.

KVM api.rst "General description", "KVM_CHECK_EXTENSION".
"""

import errno
import os
from typing import Final

from virtio.errors import Error, HostError
from vmm.host.resource import Resource
from vmm.kvm import ioctl
from vmm.kvm.vm import Vm

KVM_API_VERSION: Final = 12

REQUIRED_CAPABILITIES: Final = {
    "KVM_CAP_USER_MEMORY": 3,
    "KVM_CAP_IRQFD": 32,
    "KVM_CAP_IOEVENTFD": 36,
}
KVM_CAP_IRQ_ROUTING: Final = 25
"""Its extent is the number of GSIs."""
KVM_CAP_MAX_VCPUS: Final = 66
KVM_CAP_SIGNAL_MSI: Final = 77
KVM_CAP_MAX_VCPU_ID: Final = 128
"""Its extent is one more than the highest ID."""
KVM_CAP_IOEVENTFD_ANY_LENGTH: Final = 122

_HINTS: Final = {
    errno.ENOENT: "there is no such device: load {modules}, or turn on virtualization in the"
    " firmware (or nested virtualization in the outer machine)",
    errno.EACCES: "no permission: join the group that owns it (usually 'kvm') and log in again",
    errno.ENODEV: "the kvm module is there but no module for this CPU: load {modules}",
}


class KvmUnavailable(Error):
    """This host cannot run guests as it is; the message says what is missing."""


class Kvm(Resource):
    """An open ``/dev/kvm`` whose API version and capabilities have been checked."""

    def __init__(self, required: dict[str, int], modules: str, path: str = "/dev/kvm") -> None:
        """Open ``path``, with what an architecture has of its own.

        ``required`` are capabilities beside ``REQUIRED_CAPABILITIES``, ``modules`` the names of
        the kernel's modules. Raises :class:`KvmUnavailable` with the reason and the remedy.
        """
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, os.strerror(error.errno or 0))
            hint = hint.format(modules=modules)
            raise KvmUnavailable(f"cannot open {path}: {hint}") from None
        try:
            self._check(path, REQUIRED_CAPABILITIES | required)
        except BaseException:
            os.close(self.fd)
            raise

    def _check(self, path: str, required: dict[str, int]) -> None:
        try:
            version = ioctl.ioctl(self.fd, ioctl.KVM_GET_API_VERSION)
        except HostError:
            raise KvmUnavailable(f"{path} is not a KVM device") from None
        if version != KVM_API_VERSION:
            raise KvmUnavailable(f"{path} has API version {version}, need {KVM_API_VERSION}")
        missing = [name for name, number in required.items() if not self.check(number)]
        if missing:
            raise KvmUnavailable(f"{path} lacks {', '.join(missing)}")

    def check(self, capability: int) -> int:
        """Return the answer of KVM_CHECK_EXTENSION for ``capability``: 0, or its extent."""
        return ioctl.ioctl(self.fd, ioctl.KVM_CHECK_EXTENSION, capability)

    def create_vm(self) -> Vm:
        """Create an empty virtual machine (KVM api.rst "KVM_CREATE_VM")."""
        while True:
            try:
                fd = ioctl.ioctl(self.fd, ioctl.KVM_CREATE_VM)
            except HostError as error:
                if error.errno != errno.EINTR:
                    raise
            else:
                return Vm(fd, self.vcpu_mmap_size())

    def vcpu_mmap_size(self) -> int:
        """Return the size in bytes of the area shared with each vCPU (``struct kvm_run``)."""
        return ioctl.ioctl(self.fd, ioctl.KVM_GET_VCPU_MMAP_SIZE)

    def close(self) -> None:
        """Close the device; harmless the second time. Machines live on."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
