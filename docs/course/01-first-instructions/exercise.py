"""Add three numbers.

Before your code runs, AL, BL and CL hold a number each. Send the one byte AL + BL + CL to port
0x10 (the number itself, not a character), then halt. The code may have up to 4096 bytes.
"""

CODE = bytes.fromhex(
    "00 d8"  # add al, bl
)
