"""What the fuzzers feed: each module has ``one_input(data)``, which takes any bytes.

It returns normally for every input, hostile or not, as long as the code under test keeps its
promises; whatever it raises is a finding. It needs no fuzzer, so that any input can be replayed.
"""

from collections.abc import Callable
from importlib import import_module

Target = Callable[[bytes], None]

TARGETS = (
    "agent_frames",
    "balloon_requests",
    "block_request",
    "bzimage",
    "console_ports",
    "elf",
    "engines",
    "fuse_requests",
    "gdb_packets",
    "mmio_registers",
    "multiboot",
    "net_engines",
    "net_packets",
    "packed_ring",
    "payload",
    "pci_functions",
    "sandbox_filter",
    "snapshot_folder",
    "split_ring",
    "vsock_packets",
)


def assert_one_line(error: Exception) -> None:
    """Assert that an error can be shown to a user as it is."""
    assert str(error), "an error says nothing"
    assert "\n" not in str(error), "an error is one line"


def load_target(name: str) -> Target:
    """Return ``one_input`` of a target."""
    target: Target = import_module(f"tests.fuzz.targets.{name}").one_input
    return target
