"""Builds the native part of the package; without a C compiler its twin in Python serves alone."""

import runpy

from setuptools import setup

extension = runpy.run_path("virtio/native_build.py")["ffi"].distutils_extension("build/native")
extension.optional = True
setup(ext_modules=[extension])
