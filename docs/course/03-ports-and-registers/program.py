"""Chapter 3: a device on ports, and one whose registers look like memory."""

import mmap

from vmm.course.lab import EXIT_IO, EXIT_MMIO, Lab

CODE = bytes.fromhex(
    "b0 05"  #    mov al, 5
    "e6 20"  #    out 0x20, al
    "e6 20"  #    out 0x20, al
    "e4 20"  #    in al, 0x20          AL is what the device answers
    "a2 04 a0"  # mov [0xa004], al
    "a1 00 a0"  # mov ax, [0xa000]
    "a3 04 a0"  # mov [0xa004], ax
    "f4"  #       hlt
)


class Adder:
    """Port 0x20: what is written is added, what is read is the sum."""

    sum = 0

    def write(self, data):
        self.sum = (self.sum + int.from_bytes(data, "little")) % 256

    def read(self, size):
        return self.sum.to_bytes(size, "little")


class Registers:
    """A window of 4096 bytes at 0xa000: a name at offset 0, whatever you like at offset 4."""

    def write(self, offset, data):
        print(f"the guest stores {data} at offset {offset}")

    def read(self, offset, length):
        return b"PYVM"[offset : offset + length].ljust(length, b"\0")


adder, registers = Adder(), Registers()
memory = mmap.mmap(-1, 4096)
memory[: len(CODE)] = CODE
with Lab() as lab:
    lab.add_slot(0x1000, memory)
    lab.start_at(0x1000)
    while (reason := lab.run()) in (EXIT_IO, EXIT_MMIO):
        if reason == EXIT_IO:
            is_out, port, size, count, place = lab.port_access()
            if is_out:
                adder.write(lab.area[place : place + size])
            else:
                lab.area[place : place + size] = adder.read(size)
        else:
            is_write, address, length = lab.memory_access()
            if is_write:
                registers.write(address - 0xA000, lab.area[40 : 40 + length])
            else:
                lab.area[40 : 40 + length] = registers.read(address - 0xA000, length)
