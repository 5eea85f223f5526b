"""Our virtio data path beside QEMU's: one guest program, the same work, on the same host."""
