"""Find what the guest sees.

``slots`` is a list of (guest address, size, offset): ``size`` bytes, which the guest sees from
``guest address`` on, are at ``offset`` in a file of the host. Return the offset in the file of
what the guest sees at ``address``, or None when that is in a hole.
"""


def find(slots, address):
    for guest_address, _size, offset in slots:
        if address == guest_address:
            return offset
    return None
