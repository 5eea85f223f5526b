"""Chapter 4: a serial port, which the guest asks before it sends."""

import mmap

from vmm.course.lab import EXIT_IO, Lab

CODE = bytes.fromhex(
    "be 00 11"  # mov si, 0x1100       SI is where the text is
    # next:
    "ac"  #       lodsb                AL = [SI], SI = SI + 1
    "08 c0"  #    or al, al            is it 0?
    "74 12"  #    jz end
    "88 c4"  #    mov ah, al           keep it
    # wait:
    "ba fd 03"  # mov dx, 0x3fd
    "ec"  #       in al, dx            the line status
    "a8 20"  #    test al, 0x20        can it take a byte?
    "74 f8"  #    jz wait
    "ba f8 03"  # mov dx, 0x3f8
    "88 e0"  #    mov al, ah
    "ee"  #       out dx, al           send it
    "eb e9"  #    jmp next
    # end:
    "f4"  #       hlt
)
PORT, DATA, LINE_STATUS, CAN_TAKE = 0x3F8, 0, 5, 0x20


class Uart:
    """The part of a serial port that sends. It takes a byte only each third time it is asked."""

    def __init__(self):
        self.sent, self.asked = b"", 0

    def write(self, register, value):
        if register == DATA:
            self.sent += bytes([value])

    def read(self, register):
        if register != LINE_STATUS:
            return 0
        self.asked += 1
        return CAN_TAKE if self.asked % 3 == 0 else 0


uart = Uart()
memory = mmap.mmap(-1, 4096)
memory[: len(CODE)] = CODE
memory[0x100:0x107] = b"hello\n\0"
with Lab() as lab:
    lab.add_slot(0x1000, memory)
    lab.start_at(0x1000)
    while lab.run() == EXIT_IO:
        is_out, port, size, count, place = lab.port_access()
        if is_out:
            uart.write(port - PORT, lab.area[place])
        else:
            lab.area[place] = uart.read(port - PORT)
print(uart.sent.decode(), end="")
print(f"{len(uart.sent)} bytes took {len(uart.sent) + uart.asked} exits")
