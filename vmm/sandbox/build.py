"""Builds ``vmm.sandbox._sandbox`` from ``sandbox.c`` on installation: see ``setup.py``."""

from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef(
    """
    int landlock_abi(void);
    int landlock_deny(uint64_t files, uint64_t network, uint64_t scopes);
    int has_action(uint32_t action);
    int has_tsync(void);
    int set_filter(const void *program, unsigned instructions, int all_threads);
    int watch_filter(const void *program, unsigned instructions, const char *const *names,
                     const int8_t *paths, unsigned count);
    int limit_process(uint64_t descriptors);
    int explain_bus_errors(const char *message, unsigned length, int status);
    """
)
ffi.set_source(
    "vmm.sandbox._sandbox",
    Path(__file__).with_name("sandbox.c").read_text(),
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
    libraries=["pthread"],
)
