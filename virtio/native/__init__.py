"""The rings and data paths of :mod:`virtio` in C; :mod:`virtio.engine` chooses them."""
