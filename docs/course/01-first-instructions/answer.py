"""Add three numbers: a solution."""

CODE = bytes.fromhex(
    "00 d8"  #    add al, bl
    "00 c8"  #    add al, cl
    "ba 10 00"  # mov dx, 0x10
    "ee"  #       out dx, al
    "f4"  #       hlt
)
