"""Builds ``vmm.x86._run`` from ``run.c``, when the package is installed: see ``setup.py``."""

from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef(
    """
    #define MAX_REGIONS ...
    struct region { uint64_t start, end; uint8_t *host; };
    struct ram { unsigned regions; struct region region[...]; };
    struct emulated { uint64_t clac, stac, syscall; };
    int run_vcpu(int fd, const void *run_area, const struct ram *ram, struct emulated *emulated);
    int wait_idle(const int32_t *clocks, unsigned count, int interval_ms, int stop_fd);

    // For tests, which show both twins the same page faults:
    struct frame { uint64_t error_code, rip, cs, rflags, rsp, ss; };
    struct entry {
        uint64_t star, lstar, sfmask;
        struct frame frame;
        uint8_t gate[16], prologue[4];
    };
    int finish_syscall(void *registers, const void *system, const struct entry *entry);
    """
)
ffi.set_source(
    "vmm.x86._run",
    Path(__file__).with_name("run.c").read_text(),
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)
