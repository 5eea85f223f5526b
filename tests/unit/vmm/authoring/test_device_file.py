"""A class of a device is loaded from a file; what is wrong with the file is one line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtio.errors import ConfigurationError
from vmm.authoring.device_file import DeviceFile, loaded_device, parse_device
from vmm.authoring.loading import load_class

HEAD = "from virtio import Device, queue\n"
DICE = """
class Dice(Device):
    device_id = 4

    def __init__(self, sides=6):
        super().__init__()
        self.sides = sides

    @queue(size=64)
    def requestq(self, chain):
        return chain.write(b"6")
"""


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - before:
        if name.startswith("device_file_") or name in ("helper", "queue_of_mine"):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dice.py"


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded_device(text)()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_is_made_with_the_arguments_by_name(file: Path) -> None:
    file.write_text(HEAD + DICE)

    config = loaded_device(f"{file}:Dice,sides=8,transport=pci")

    assert (vars(config())["sides"], config.transport) == (8, "pci")


def test_each_device_is_another_one(file: Path) -> None:
    file.write_text(HEAD + DICE)

    config = loaded_device(f"{file}:Dice")

    assert config() is not config()


def test_value_is_a_literal_or_else_text() -> None:
    config = parse_device("a,,b.py:D,n=-3,f=0.5,text=06,none=None,list=[1,,2],path=/dev/null")

    assert isinstance(config.make, DeviceFile)
    assert config.make.path == Path("a,b.py")
    assert config.make.arguments == {
        "n": -3,
        "f": 0.5,
        "text": "06",
        "none": None,
        "list": [1, 2],
        "path": "/dev/null",
    }


@pytest.mark.parametrize("text", ["dice.py", ":Dice", "dice.py:", "dice.py:no class", ""])
def test_what_names_no_file_and_class_is_refused(text: str) -> None:
    assert refusal(text).startswith(f"--device {text!r}: must be FILE.py:CLASS")


@pytest.mark.parametrize("argument", ["sides", "=6", "9=6", "sides=1,sides=2"])
def test_argument_without_a_name_of_its_own_is_refused(argument: str) -> None:
    assert "must be NAME=VALUE, each once" in refusal(f"dice.py:Dice,{argument}")


def test_unknown_transport_is_refused() -> None:
    assert refusal("dice.py:Dice,transport=usb") == "device: transport 'usb': must be mmio or pci"


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/nope.py:Dice") == f"{tmp_path}/nope.py: No such file or directory"


def test_directory_is_no_device(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}:Dice") == f"{tmp_path}: is a directory, must be a Python file"


def test_what_is_no_regular_file_is_refused_at_once() -> None:
    assert refusal("/dev/zero:Dice") == "/dev/zero: is no file of Python's"


def test_binary_file_is_no_python(file: Path) -> None:
    file.write_bytes(b"\x7fELF\x02\x00\xff")

    assert refusal(f"{file}:Dice").startswith(f"{file}: ")


def test_syntax_error_is_told_with_its_line(file: Path) -> None:
    file.write_text(HEAD + "\ndef x(\n")

    assert refusal(f"{file}:Dice") == f"{file}:3: SyntaxError: '(' was never closed"


def test_exception_of_the_module_is_told_with_its_line(file: Path) -> None:
    file.write_text(HEAD + "\nlen(7)\n")

    expected = f"{file}:3: TypeError: object of type 'int' has no len()"
    assert refusal(f"{file}:Dice") == expected


def test_module_that_exits_does_not_end_us(file: Path) -> None:
    file.write_text("import sys\nsys.exit(3)\n")

    assert refusal(f"{file}:Dice") == f"{file}:2: SystemExit: 3"


def test_exception_of_the_constructor_is_told_with_its_line(file: Path) -> None:
    file.write_text(HEAD + DICE + "        self.nope\n")
    file.write_text(file.read_text().replace("self.sides = sides", "raise ValueError('no')"))

    assert refusal(f"{file}:Dice") == f"{file}:8: ValueError: no (by Dice())"


def test_argument_that_the_class_does_not_take_is_told(file: Path) -> None:
    file.write_text(HEAD + DICE)

    assert "unexpected keyword argument 'colour'" in refusal(f"{file}:Dice,colour=red")


def test_missing_class_is_told_with_those_that_are_there(file: Path) -> None:
    file.write_text(HEAD + DICE)

    assert refusal(f"{file}:Nope") == f"{file}: has no class Nope; its devices are: Dice"


@pytest.mark.parametrize("name", ["int_", "queue", "HEAD"])
def test_what_is_no_device_is_refused(file: Path, name: str) -> None:
    file.write_text(HEAD + DICE + "int_ = int\nHEAD = 7\n")

    expected = f"{file}: {name} is no subclass of virtio.Device; its devices are: Dice"
    assert refusal(f"{file}:{name}") == expected


def test_class_without_a_device_id_is_refused(file: Path) -> None:
    file.write_text(HEAD + DICE.replace("    device_id = 4\n", ""))

    assert "Dice says no device_id" in refusal(f"{file}:Dice")


def test_class_is_loaded_anew_from_what_the_file_holds(file: Path) -> None:
    file.write_text(HEAD + DICE)
    first = load_class(file, "Dice").device
    file.write_text(HEAD + DICE.replace("device_id = 4", "device_id = 5"))

    assert (first.device_id, load_class(file, "Dice").device.device_id) == (4, 5)


def test_what_the_file_imports_from_its_folder_is_loaded_anew_with_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    helper = file.with_name("helper.py")
    helper.write_text("NUMBER = 4\n")
    file.write_text(f"from helper import NUMBER\n{HEAD}{DICE.replace('= 4', '= NUMBER')}")
    first = load_class(file, "Dice")
    helper.write_text("NUMBER = 5\n")  # as long as before, and in the same second

    second = load_class(file, "Dice")

    assert (first.device.device_id, second.device.device_id) == (4, 5)
    assert second.files == (file, helper)
    assert [one.name for one in file.parent.iterdir() if one.is_dir()] == []
    assert not sys.dont_write_bytecode


def test_modules_are_as_before_when_loading_fails(file: Path) -> None:
    helper = file.with_name("helper.py")
    helper.write_text("NUMBER = 4\n")
    file.write_text(f"import helper\n{HEAD}{DICE}")
    load_class(file, "Dice")
    before = {name: sys.modules[name] for name in ("helper", "device_file_dice_Dice")}
    file.write_text(f"import helper\n{HEAD}{DICE}\n1 / 0\n")

    with pytest.raises(ConfigurationError):
        load_class(file, "Dice")

    assert {name: sys.modules[name] for name in before} == before


def test_module_called_like_one_of_ours_takes_nobodys_name(file: Path) -> None:
    file.with_name("vmm.py").write_text("raise SystemExit('not this one')\n")
    file.with_name("fractions.py").write_text("raise SystemExit('not this one')\n")
    file.write_text(f"import vmm, fractions\nfractions.Fraction(1, 2)\n{HEAD}{DICE}")

    assert load_class(file, "Dice").files == (file,)


def test_dataclass_of_the_file_can_be_made(file: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    file.write_text(f"{text}{HEAD}@dataclass\nclass Side:\n    number: int = 6\n{DICE}")

    assert load_class(file, "Dice").device.device_id == 4
