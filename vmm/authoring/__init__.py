"""What authors of devices work with: a device's class in a file, loaded again when that changes."""
