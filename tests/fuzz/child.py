"""Fuzzes one target in this process, guided by coverage: ``python -m tests.fuzz.child TARGET ...``.

What follows the name goes to libFuzzer. :mod:`tests.fuzz.run` starts these; alone it is good for
going through one input, or for reducing a corpus (``-merge=1``).
"""

import logging
import sys

import atheris

INSTRUMENTED = ["virtio", "transport", "vmm", "tests.bpf"]


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer is told to stop; it ends the process."""
    name, *options = arguments
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.guard import Guard
        from tests.fuzz.targets import load_target

        target = Guard(load_target(name))
    target.watch_for_hangs()
    # To merge corpora, libFuzzer starts itself again by the words of its first argument.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.child {name}", *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
