"""Directories of the host for guests."""
