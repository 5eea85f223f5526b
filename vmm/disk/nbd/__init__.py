"""Disks of NBD servers, by libnbd. Nothing of it is imported where there is no such disk."""
