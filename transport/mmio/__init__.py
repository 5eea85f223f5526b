"""Virtio over MMIO: registers in guest-physical memory. VIRTIO 1.4 "Virtio Over MMIO"."""
