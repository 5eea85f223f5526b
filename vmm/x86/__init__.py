"""Everything that is x86, behind one door: the rest of the program imports from here only.

The names below are imported when they are first used, so that a start imports what it needs.
Another architecture would be a package beside this one with the same names.
"""

from typing import TYPE_CHECKING

from virtio.lazy import lazy_names

if TYPE_CHECKING:
    from vmm.x86.apic_ids import highest_vcpu_id as highest_vcpu_id
    from vmm.x86.boot.boot import BootSource as BootSource
    from vmm.x86.boot.bzimage import image_release as image_release
    from vmm.x86.boot.cmdline import default_cmdline as default_cmdline
    from vmm.x86.boot.decompression import unpack as unpack
    from vmm.x86.boot.elf import ELF_MACHINE as ELF_MACHINE
    from vmm.x86.boot.kernel import BUILT_IMAGES as BUILT_IMAGES
    from vmm.x86.debug.core_notes import core_status as core_status
    from vmm.x86.debug.core_notes import kernel_segments as kernel_segments
    from vmm.x86.debug.core_notes import saved_core_status as saved_core_status
    from vmm.x86.debug.guest_debug import BREAKPOINT as BREAKPOINT
    from vmm.x86.debug.guest_debug import HARDWARE_BREAKPOINTS as HARDWARE_BREAKPOINTS
    from vmm.x86.debug.guest_debug import HardwareBreakpoint as HardwareBreakpoint
    from vmm.x86.debug.guest_debug import check_hardware_breakpoint as check_hardware_breakpoint
    from vmm.x86.debug.guest_debug import debug_exit as debug_exit
    from vmm.x86.debug.guest_debug import end_guest_debug as end_guest_debug
    from vmm.x86.debug.guest_debug import linear_position as linear_position
    from vmm.x86.debug.guest_debug import set_guest_debug as set_guest_debug
    from vmm.x86.debug.registers import DebugState as DebugState
    from vmm.x86.debug.registers import Register as Register
    from vmm.x86.debug.registers import debug_registers as debug_registers
    from vmm.x86.debug.registers import target_description as target_description
    from vmm.x86.debug.requests import DEBUGGER_REQUESTS as DEBUGGER_REQUESTS
    from vmm.x86.host import check_host as check_host
    from vmm.x86.host import host_kind as host_kind
    from vmm.x86.host import is_emulated_host as is_emulated_host
    from vmm.x86.host import kvm_fault as kvm_fault
    from vmm.x86.host import open_kvm as open_kvm
    from vmm.x86.host_identity import HostIdentity as HostIdentity
    from vmm.x86.idle import native_wait_idle as native_wait_idle
    from vmm.x86.kvm.vcpu import Vcpu as Vcpu
    from vmm.x86.layout import VirtioMmioWindow as VirtioMmioWindow
    from vmm.x86.layout import ram_regions as ram_regions
    from vmm.x86.layout import virtio_mmio_window as virtio_mmio_window
    from vmm.x86.legacy_devices import GuestEvents as GuestEvents
    from vmm.x86.limits import BootProtocol as BootProtocol
    from vmm.x86.limits import check_cpus as check_cpus
    from vmm.x86.limits import check_memory as check_memory
    from vmm.x86.limits import check_vcpu_ids as check_vcpu_ids
    from vmm.x86.pci import PciHost as PciHost
    from vmm.x86.platform import Platform as Platform
    from vmm.x86.position import describe_position as describe_position
    from vmm.x86.position import describe_registers as describe_registers
    from vmm.x86.position import is_halted_for_ever as is_halted_for_ever
    from vmm.x86.position import shows_life as shows_life
    from vmm.x86.requests import RUNNING_REQUESTS as RUNNING_REQUESTS
    from vmm.x86.state import PlatformState as PlatformState
    from vmm.x86.system_calls import AUDIT_ARCH as AUDIT_ARCH
    from vmm.x86.system_calls import FOREIGN_NUMBERS as FOREIGN_NUMBERS
    from vmm.x86.system_calls import SYSTEM_CALLS as SYSTEM_CALLS
    from vmm.x86.vcpu_state import VcpuState as VcpuState
    from vmm.x86.vcpu_state import check_vcpu_state as check_vcpu_state
else:
    __getattr__, __all__ = lazy_names(
        __name__,
        {
            "apic_ids": "highest_vcpu_id",
            "boot.boot": "BootSource",
            "boot.bzimage": "image_release",
            "boot.cmdline": "default_cmdline",
            "boot.decompression": "unpack",
            "boot.elf": "ELF_MACHINE",
            "boot.kernel": "BUILT_IMAGES",
            "debug.core_notes": "core_status kernel_segments saved_core_status",
            "debug.guest_debug": "BREAKPOINT HARDWARE_BREAKPOINTS HardwareBreakpoint"
            " check_hardware_breakpoint debug_exit end_guest_debug linear_position set_guest_debug",
            "debug.registers": "DebugState Register debug_registers target_description",
            "debug.requests": "DEBUGGER_REQUESTS",
            "host": "check_host host_kind is_emulated_host kvm_fault open_kvm",
            "host_identity": "HostIdentity",
            "idle": "native_wait_idle",
            "kvm.vcpu": "Vcpu",
            "layout": "VirtioMmioWindow ram_regions virtio_mmio_window",
            "legacy_devices": "GuestEvents",
            "limits": "BootProtocol check_vcpu_ids check_cpus check_memory",
            "pci": "PciHost",
            "platform": "Platform",
            "position": "describe_position describe_registers is_halted_for_ever shows_life",
            "requests": "RUNNING_REQUESTS",
            "state": "PlatformState",
            "system_calls": "AUDIT_ARCH FOREIGN_NUMBERS SYSTEM_CALLS",
            "vcpu_state": "VcpuState check_vcpu_state",
        },
    )
