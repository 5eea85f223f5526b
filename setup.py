"""Builds the native parts and the guest's programs; without a C compiler the package does without.

The native parts have twins in Python, which then serve alone. The guest's programs (``agent.c`` and
``init.c``) are then compiled at their first use. ``PYVMM_BUILD=complete`` makes a part that was not
built an error, for what is handed to others.

The native parts rely on memory orderings of x86-64, and the programs on its system calls, so that
nothing is built on another machine type. They use the stable ABI, so that one build serves every
CPython from 3.11 on, except for those without a global lock.
"""

import os
import runpy
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

BUILDERS = ("virtio/native/build.py", "vmm/x86/run_build.py", "vmm/sandbox/build.py")
PROJECT = Path(__file__).parent
PROGRAMS = "vmm/image/programs"

COMPLETE = os.environ.get("PYVMM_BUILD") == "complete"
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildNative(build_ext):
    """Builds the native parts; in a checkout it removes those that Python would prefer to them."""

    def run(self):
        super().run()
        if not self.inplace:
            return
        for extension in self.extensions:
            path = Path(self.get_ext_fullpath(extension.name))
            if path.exists():
                for other in set(path.parent.glob(f"{path.name.partition('.')[0]}.*.so")) - {path}:
                    other.unlink()


class BuildPrograms(Command):
    """Builds the guest's programs into the package; a sub-command of ``build``."""

    description = "build the guest's programs"
    user_options = ()
    editable_mode = False

    def initialize_options(self):
        self.build_lib = None

    def finalize_options(self):
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self):
        sys.path.insert(0, str(PROJECT))
        from virtio.errors import ConfigurationError
        from vmm.image.program import build_packaged

        folder = PROJECT if self.editable_mode else Path(self.build_lib)
        try:
            build_packaged(PROJECT / "vmm/guest_images", folder / PROGRAMS)
        except ConfigurationError as error:
            if COMPLETE:
                raise SystemExit(f"the guest's programs: {error}") from None
            print(f"the guest's programs are not built: {error}", file=sys.stderr)

    def get_outputs(self):
        return [str(path) for path in Path(self.build_lib, PROGRAMS).glob("*")]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return []


class BuildAll(build):
    """Builds the package and what is in C."""

    sub_commands = (*build.sub_commands, ("build_programs", None))


def native_parts():
    """Return an extension for each of the native parts."""
    for path in BUILDERS:
        extension = runpy.run_path(path)["ffi"].distutils_extension("build/native")
        extension.optional = not COMPLETE
        extension.py_limited_api = STABLE_ABI
        yield extension


if os.uname().machine == "x86_64":
    commands = {"build": BuildAll, "build_ext": BuildNative, "build_programs": BuildPrograms}
    wheel = {"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {}
    setup(ext_modules=list(native_parts()), cmdclass=commands, options=wheel)
elif COMPLETE:
    raise SystemExit("the native parts are for x86-64 only so far")
else:
    print("the native parts are for x86-64 only so far; none is built here", file=sys.stderr)
    setup(ext_modules=[])
