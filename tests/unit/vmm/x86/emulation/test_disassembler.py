"""The disassembler is the one of its package, without the package."""

import subprocess
import sys

import iced_x86

from vmm.x86.emulation import disassembler


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


def test_names_are_those_of_the_package() -> None:
    for name in disassembler.__all__:
        assert getattr(disassembler, name) is getattr(iced_x86, name)


def test_package_is_not_imported() -> None:
    program = "import sys, vmm.x86.emulation.failure; print('iced_x86' in sys.modules)"

    assert run(program) == "False\n"


def test_package_that_is_imported_later_is_whole_and_the_same() -> None:
    program = (
        "from vmm.x86.emulation import disassembler as ours\n"
        "import iced_x86 as whole\n"
        "print(all(getattr(ours, name) is getattr(whole, name) for name in ours.__all__))\n"
        "print(whole.Decoder(64, b'\\x90').decode().code == whole.Code.NOPD)"
    )

    assert run(program) == "True\nTrue\n"
