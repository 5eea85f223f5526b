"""Chapter 6: Linux, and the page that a loader writes for it."""

import struct

from vmm import Machine, MachineConfig

HEADER, COMMAND_LINE, ENTRY_COUNT, ENTRIES = 0x202, 0x228, 0x1E8, 0x2D0
KINDS = {1: "RAM", 2: "reserved"}

with Machine(MachineConfig(memory_bytes=64 << 20, boot="linux64")) as machine:
    machine.load()  # the kernel is in memory, and has not run yet
    low = bytes(machine.hardware.ram.view(0, 1 << 20))

    [page] = [at for at in range(0, len(low), 4096) if low[at + HEADER :].startswith(b"HdrS")]
    [where] = struct.unpack_from("<I", low, page + COMMAND_LINE)
    text = low[where : low.index(b"\0", where)].decode()
    console = next(word for word in text.split() if word.startswith("console="))
    print(f"the zero page is at {page:#x}; the command line has {console}")
    for index in range(low[page + ENTRY_COUNT]):
        start, length, kind = struct.unpack_from("<QQI", low, page + ENTRIES + 20 * index)
        print(f"  {start:#12x} to {start + length:#12x}: {KINDS[kind]}")

    machine.resume()
    machine.console.wait_for("guest:/# ", timeout=600)
    machine.console.send("echo I am $(uname -s); poweroff\n")
    print(machine.wait(timeout=600).message)
    output = machine.console.history().decode(errors="replace")
print(next(line for line in output.splitlines() if line.startswith("I am")))
