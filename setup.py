"""Builds the native parts; without a C compiler their twins in Python serve alone."""

import runpy

from setuptools import setup

BUILDERS = ("virtio/native/build.py", "vmm/x86/run_build.py")

extensions = [runpy.run_path(path)["ffi"].distutils_extension("build/native") for path in BUILDERS]
for extension in extensions:
    extension.optional = True
setup(ext_modules=extensions)
