"""What a machine uses of the host: event loop, threads, files."""
