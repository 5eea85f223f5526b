"""Puts a Linux guest into memory as a firmware would: kernel, initrd, command line, tables."""
