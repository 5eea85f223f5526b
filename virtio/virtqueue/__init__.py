"""Virtqueues, the device's side: rings, the chains taken from them, and queues over both.

VIRTIO 1.4 "Virtqueues". :mod:`virtio` exports what is public here.
"""
