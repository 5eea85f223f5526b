"""Builds ``vmm.sandbox._sandbox`` of two C files on installation: see ``setup.py``."""

from pathlib import Path

from cffi import FFI

ffi = FFI()
ffi.cdef(
    """
    int landlock_abi(void);
    int landlock_deny(uint64_t files, uint64_t network, uint64_t scopes, const int *folders,
                      const uint64_t *kept, unsigned count);
    int has_action(uint32_t action);
    int has_tsync(void);
    int set_filter(const void *program, unsigned instructions, int all_threads);
    int watch_filter(const void *program, unsigned instructions, const char *const *names,
                     const int8_t *paths, unsigned count);
    int limit_process(uint64_t descriptors);
    int explain_bus_errors(const char *message, unsigned length, int status);

    int new_process_numbers(int with_user_namespace);
    int new_namespaces(void);
    int end_with_parent(void);
    int keep_capabilities(uint64_t kept);
    int drop_capabilities(void);
    int empty_root(const char **call);
    void hold_process_numbers(void);
    """
)
ffi.set_source(
    "vmm.sandbox._sandbox",
    "".join(Path(__file__).with_name(name).read_text() for name in ("sandbox.c", "jail.c")),
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
    libraries=["pthread"],
)
