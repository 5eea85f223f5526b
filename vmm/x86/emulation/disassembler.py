"""The part of ``iced_x86`` that is used here, in a third of the time that all of it takes.

Importing that package runs some fifty modules of constants. A machine in the sandbox imports the
decoder before the guest is entered, whether or not it will be needed, so that time counts. Each
module of the package stands alone, so those in use are loaded without the package around them,
under their own names: whoever imports the package later, gets them with it.
"""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = [
    "CpuidFeature",
    "Decoder",
    "Formatter",
    "FormatterSyntax",
    "Instruction",
    "MemorySizeExt",
    "Mnemonic",
    "OpKind",
    "Register",
    "RegisterExt",
    "Register_",
]


def part(name: str) -> ModuleType:
    """Return a module of ``iced_x86`` without running that package's own, where it can be found."""
    full_name = f"iced_x86.{name}"
    if full_name in sys.modules:
        return sys.modules[full_name]
    package = PathFinder.find_spec("iced_x86")
    places = package.submodule_search_locations if package is not None else None
    spec = PathFinder.find_spec(full_name, places)
    if spec is None or spec.loader is None:
        return import_module(full_name)
    module = spec.loader.create_module(spec) or ModuleType(full_name)
    module.__spec__ = spec
    spec.loader.exec_module(module)
    return sys.modules.setdefault(full_name, module)


if TYPE_CHECKING:
    from iced_x86 import (
        CpuidFeature,
        Decoder,
        Formatter,
        FormatterSyntax,
        Instruction,
        MemorySizeExt,
        Mnemonic,
        OpKind,
        Register,
        Register_,
        RegisterExt,
    )
else:
    CpuidFeature, FormatterSyntax, Mnemonic, OpKind, Register = map(
        part, ("CpuidFeature", "FormatterSyntax", "Mnemonic", "OpKind", "Register")
    )
    Register_ = int  # as the package has it
    _native = part("_iced_x86_py")
    Decoder, Formatter, Instruction = _native.Decoder, _native.Formatter, _native.Instruction
    MemorySizeExt, RegisterExt = _native.MemorySizeExt, _native.RegisterExt
