"""Resource descriptors, by bytes typed from ACPI 6.5 "Resource Data Types for ACPI"."""

from vmm.x86.acpi import resources


def test_ports_of_a_serial_port() -> None:
    assert resources.io(0x3F8, 8).hex(" ") == "47 01 f8 03 f8 03 01 08"


def test_an_interrupt_is_edge_triggered_active_high_and_exclusive() -> None:
    assert resources.interrupt(5).hex(" ") == "89 06 00 03 01 05 00 00 00"


def test_registers_in_memory() -> None:
    expected = "86 09 00 01 00 10 00 c0 00 10 00 00"

    assert resources.memory_32_fixed(0xC0001000, 0x1000).hex(" ") == expected


def test_the_only_bus_behind_a_bridge() -> None:
    expected = "88 0d 00 02 0c 00 00 00 00 00 00 00 00 00 01 00"

    assert resources.bus_numbers(0, 0).hex(" ") == expected


def test_a_window_below_4_gib() -> None:
    expected = "87 17 00 00 0c 01 00000000 000000c1 ffffbfee 00000000 0000c02d"

    assert resources.memory_window(0xC1000000, 0x2DC00000) == bytes.fromhex(expected)


def test_a_window_above_4_gib() -> None:
    expected = (
        "8a 2b 00 00 0c 01 0000000000000000 0000000040000000 ffffffff7f000000"
        " 0000000000000000 0000000040000000"
    )

    assert resources.memory_window(0x40_0000_0000, 0x40_0000_0000) == bytes.fromhex(expected)


def test_a_template_is_closed_by_an_end_tag() -> None:
    template = resources.resource_template(resources.io(0x505, 1))

    assert template.hex(" ") == "11 0d 0a 0a 47 01 05 05 05 05 01 01 79 00"
