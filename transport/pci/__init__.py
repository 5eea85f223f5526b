"""Virtio over PCI, modern only, and the bus below it. VIRTIO 1.4 "Virtio Over PCI Bus"."""
