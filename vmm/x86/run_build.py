"""Builds ``vmm.x86._run`` from ``run.c``, when the package is installed: see ``setup.py``."""

from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef(
    """
    struct completed { uint64_t clac, stac; };
    int run_vcpu(int fd, const void *run_area, struct completed *completed);
    """
)
ffi.set_source(
    "vmm.x86._run",
    Path(__file__).with_name("run.c").read_text(),
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)
