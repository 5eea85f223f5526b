"""A machine's memory and processors as a core file, which gdb, drgn and crash open."""
