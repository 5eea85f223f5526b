"""A debugger's way into the guest: GDB's remote serial protocol.

GDB "Appendix E GDB Remote Serial Protocol". ``server`` speaks with the debugger, ``session``
answers its packets, ``target`` stops and moves the machine.
"""
