"""The sandbox: takes from a machine's process or threads what a running machine does not need.

``policy`` lists the system calls that stay, ``program`` makes a filter of them, ``process``
confines a process. What is done in C is in ``sandbox.c``.
"""
