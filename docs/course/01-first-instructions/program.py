"""Chapter 1: a virtual machine of one page that adds two numbers."""

import ctypes
import fcntl
import mmap
import os
import struct

KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE, KVM_CREATE_VCPU = 0xAE01, 0xAE04, 0xAE41
KVM_SET_USER_MEMORY_REGION, KVM_RUN = 0x4020AE46, 0xAE80
KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
EXIT_IO, EXIT_HLT = 2, 5

CODE = bytes.fromhex(
    "b0 02"  #    mov al, 2
    "b3 03"  #    mov bl, 3
    "00 d8"  #    add al, bl
    "b1 30"  #    mov cl, '0'
    "00 c8"  #    add al, cl        the number as a character
    "ba 10 00"  # mov dx, 0x10
    "ee"  #       out dx, al        send AL to port 0x10
    "f4"  #       hlt
)

# The machine, and a page of our memory that the guest sees at address 0x1000.
kvm = os.open("/dev/kvm", os.O_RDWR)
vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
memory = mmap.mmap(-1, 4096)
memory[: len(CODE)] = CODE
where = ctypes.addressof(ctypes.c_char.from_buffer(memory))
region = struct.pack("<IIQQQ", 0, 0, 0x1000, 4096, where)
fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)

# A processor, and the area in which KVM tells why it left the guest.
cpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
area = mmap.mmap(cpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))

# Code segment: base 0, so that an address is what it says. Then: begin at 0x1000.
special = bytearray(312)
fcntl.ioctl(cpu, KVM_GET_SREGS, special)
struct.pack_into("<QIH", special, 0, 0, 0xFFFF, 0)
fcntl.ioctl(cpu, KVM_SET_SREGS, special)
general = [0] * 18
general[16], general[17] = 0x1000, 2  # rip; rflags, of which bit 1 is always set
fcntl.ioctl(cpu, KVM_SET_REGS, struct.pack("<18Q", *general))

while True:
    fcntl.ioctl(cpu, KVM_RUN, 0)
    reason = struct.unpack_from("<I", area, 8)[0]
    if reason != EXIT_IO:
        break
    direction, size, port, count, place = struct.unpack_from("<BBHIQ", area, 32)
    print(f"the guest sent {bytes(area[place : place + size])} to port {port:#x}")
print("the guest halted" if reason == EXIT_HLT else f"the guest stopped: reason {reason}")
