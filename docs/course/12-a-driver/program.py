"""Chapter 12: a driver that brings a device up and asks it for random bytes."""

import struct

from virtio import Entropy
from vmm.course.board import Board

MAGIC, DEVICE_ID, STATUS = 0x000, 0x008, 0x070
OFFERED, OFFERED_WORD, ACCEPTED, ACCEPTED_WORD = 0x010, 0x014, 0x020, 0x024
QUEUE, QUEUE_MAX, QUEUE_SIZE, QUEUE_READY = 0x030, 0x034, 0x038, 0x044
KICK, INTERRUPT, INTERRUPT_DONE = 0x050, 0x060, 0x064
TABLE, AVAILABLE, USED, BUFFER = 0x1000, 0x2000, 0x3000, 0x4000
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
VERSION_1 = 1  # bit 32: the lowest of the second word


def bring_up(board):
    """Take the device from its reset to work, in the order that the standard wants."""
    assert board.read(MAGIC) == 0x74726976
    board.write(STATUS, 0)
    board.write(STATUS, ACKNOWLEDGE)
    board.write(STATUS, ACKNOWLEDGE | DRIVER)

    board.write(OFFERED_WORD, 1)
    assert board.read(OFFERED) & VERSION_1
    for word, features in ((0, 0), (1, VERSION_1)):
        board.write(ACCEPTED_WORD, word)
        board.write(ACCEPTED, features)
    board.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    assert board.read(STATUS) & FEATURES_OK, "the device does not take these features"

    board.write(QUEUE, 0)
    assert board.read(QUEUE_MAX) >= 8
    board.write(QUEUE_SIZE, 8)
    for register, address in ((0x080, TABLE), (0x090, AVAILABLE), (0x0A0, USED)):
        board.write(register, address)
        board.write(register + 4, 0)  # the upper half
    board.write(QUEUE_READY, 1)
    board.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)


with Board(Entropy()) as board:
    bring_up(board)
    print(f"device {board.read(DEVICE_ID)} has status {board.read(STATUS):#x}")
    struct.pack_into("<QIHH", board.memory, TABLE, BUFFER, 16, 2, 0)  # one writable buffer
    struct.pack_into("<HHH", board.memory, AVAILABLE, 0, 1, 0)  # flags, index, head
    board.write(KICK, 0)
    _, index, head, length = struct.unpack_from("<HHII", board.memory, USED)
    print(f"used index {index}, chain {head}, {length} bytes")
    print(f"interrupt status {board.read(INTERRUPT)}")
    board.write(INTERRUPT_DONE, board.read(INTERRUPT))
    print(f"and then {board.read(INTERRUPT)}")
