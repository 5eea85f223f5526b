"""Disks of the host: raw images, and overlays over them."""
