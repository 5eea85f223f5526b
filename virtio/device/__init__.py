"""What a device is: its life cycle, its declaration, and how its queues are handled."""
