"""The parts of the host that a machine uses: event loop, threads, files."""
