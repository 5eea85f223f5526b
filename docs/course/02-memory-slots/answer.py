"""Find what the guest sees: a solution."""


def find(slots, address):
    for guest_address, size, offset in slots:
        if guest_address <= address < guest_address + size:
            return offset + address - guest_address
    return None
