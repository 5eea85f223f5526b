"""The wait for idle vCPUs in C, where that was built."""

from collections.abc import Callable, Sequence


def native_wait_idle() -> Callable[[Sequence[int], int, int], bool] | None:
    """Return ``wait_idle`` of ``run.c``, which needs no interpreter; None where there is no C."""
    try:
        from vmm.x86.native_run import wait_idle
    except ImportError:
        return None
    return wait_idle
