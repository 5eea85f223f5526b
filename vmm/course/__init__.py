"""The course: twelve chapters from ``/dev/kvm`` to a driver, and what checks their exercises."""
