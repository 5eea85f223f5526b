"""Chapter 2: what the guest sees at an address is decided by a table of yours."""

import mmap

from vmm.course.lab import EXIT_HLT, EXIT_MMIO, Lab

CODE = bytes.fromhex(
    "a0 00 80"  # mov al, [0x8000]
    "a2 01 90"  # mov [0x9001], al
    "a0 00 a0"  # mov al, [0xa000]     nobody has this address
    "f4"  #       hlt
)

code = mmap.mmap(-1, 4096)
code[: len(CODE)] = CODE
data = mmap.mmap(-1, 4096)
data[:2] = b"A-"

with Lab() as lab:
    lab.add_slot(0x1000, code)
    lab.add_slot(0x8000, data)
    lab.add_slot(0x9000, data)  # the same page once more
    lab.start_at(0x1000)

    reason = lab.run()
    assert reason == EXIT_MMIO, reason
    is_write, address, length = lab.memory_access()
    print(f"the page has {data[:2]} now: what was written at 0x9001 is at 0x8001, too")
    print(f"the guest {'writes' if is_write else 'reads'} {length} byte at {address:#x}: a hole")

    lab.area[40:41] = b"Z"  # our answer to the read
    assert lab.run() == EXIT_HLT
    print(f"AL is {chr(lab.registers()['rax'])} at the end")
