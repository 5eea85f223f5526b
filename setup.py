"""Builds the native parts; without a C compiler their twins in Python serve alone.

They rely on memory orderings of x86-64, so that nothing is built on another machine type.
"""

import os
import runpy
import sys

from setuptools import setup

BUILDERS = ("virtio/native/build.py", "vmm/x86/run_build.py")

extensions = []
if os.uname().machine == "x86_64":
    for path in BUILDERS:
        extensions.append(runpy.run_path(path)["ffi"].distutils_extension("build/native"))
        extensions[-1].optional = True
else:
    print("the native parts are for x86-64 only so far; none is built here", file=sys.stderr)
setup(ext_modules=extensions)
