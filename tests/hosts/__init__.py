"""A host with hardware KVM, emulated by QEMU: what the project runs on elsewhere, at hand here.

QEMU's TCG emulates AMD's SVM with nested paging, so a Debian kernel with ``kvm-amd`` in it is a
host with hardware virtualization, on any host and without rights. ``python -m tests.hosts.run --
COMMAND`` runs a command of this checkout in it.
"""
