"""A device of a running machine follows its file, with nobody in the guest who could be asked."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.bare_metal import SPIN, say
from tests.spec.threads import wait_until
from transport import VirtioMmio
from transport.testing import MmioDriver
from virtio.errors import ConfigurationError
from virtio.frames import clear_frames
from virtio.testing import SplitDriver, Used
from vmm.authoring.device_file import loaded_device
from vmm.authoring.reloading import Reloader
from vmm.config import MachineConfig
from vmm.machine import Machine

SOURCE = """
from virtio import Device, field, queue

class Dice(Device):
    device_id = 42
    sides = field("u32", 0, default=6)
    rolls = field("u32", 4, default=0)

    @queue(size=8)
    def requestq(self, chain):
        self.assign("rolls", self.rolls + 1)
        return chain.write(b"one")
"""
RING_AT = 16 << 20  # in RAM that the guest does not use


class Author:
    """Saves the file, and stands in for the driver of the device."""

    def __init__(self, machine: Machine, file: Path) -> None:
        self.machine = machine
        self.file = file
        self.said: list[str] = []
        self.reloader = Reloader(machine, self.said.append)
        self.ring = SplitDriver(machine.hardware.ram, 8, base=RING_AT)
        self.failures: list[Exception] = []
        self.driver.start(self.ring)
        machine.hardware.keep_failed(self.hear)

    @property
    def transport(self) -> VirtioMmio:
        [transport] = self.machine.hardware.transports
        assert isinstance(transport, VirtioMmio)
        return transport

    @property
    def driver(self) -> MmioDriver:
        return MmioDriver(self.transport)

    def save(self, text: str) -> bool:
        """Save the file, and have it loaded anew; whether the device is a new one."""
        self.file.write_text(text)
        return self.reloader.reload("dice0")

    def ask(self) -> None:
        self.ring.add([], [3])
        self.driver.notify(0)

    def answer(self) -> bytes:
        """Return the next answer, which comes from the device's thread."""
        found: list[Used] = []

        def came() -> bool:
            found.extend(self.ring.collect())
            return bool(found)

        wait_until(came)
        [used] = found
        return used.data

    def hear(self, transport: object, error: Exception) -> bool:
        self.failures.append(error)
        return True

    def let_go(self) -> None:
        """Drop all views of the guest's memory, which is about to be unmapped."""
        del self.ring
        for error in self.failures:
            clear_frames(error.__traceback__)

    def fail(self) -> None:
        self.ask()
        wait_until(lambda: self.transport.suspended)


@pytest.fixture
def author(bare_metal: Callable[[bytes], MachineConfig], tmp_path: Path) -> Iterator[Author]:
    file = tmp_path / "dice.py"
    file.write_text(SOURCE)
    config = replace(bare_metal(say("up\n") + SPIN), devices=(loaded_device(f"{file}:Dice"),))
    with Machine(config) as machine:
        machine.boot()
        author = Author(machine, file)
        yield author
        author.let_go()


def test_saved_class_answers_and_the_driver_notices_nothing(author: Author) -> None:
    author.ask()
    first = author.answer()
    there = author.save(SOURCE.replace('b"one"', 'b"two"'))
    author.ask()

    assert (first, there, author.answer()) == (b"one", True, b"two")
    assert author.driver.status == 0x0F
    [line] = author.said
    assert line.startswith(f"dice0: is what {author.file} has now, and the guest, which has no")


def test_state_goes_over_and_a_new_default_counts(author: Author) -> None:
    author.ask()
    author.answer()
    author.save(SOURCE.replace("default=6", "default=8"))

    config = author.transport.read_config(0, 8)
    assert config == bytes([8, 0, 0, 0, 1, 0, 0, 0])


def test_driver_is_told_of_a_configuration_that_is_another(author: Author) -> None:
    generation = author.driver.read(0xFC)
    author.save(SOURCE.replace("default=6", "default=8"))

    assert author.driver.read(0xFC) == generation + 1
    assert author.driver.interrupt_status == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def x(", "dice.py:1: SyntaxError: '(' was never closed"),
        (SOURCE + "\n1 / 0\n", "dice.py:14: ZeroDivisionError: division by zero"),
        (SOURCE.replace("class Dice", "class Die"), "has no class Dice; its devices are: Die"),
        (
            SOURCE + "\n    def __init__(self):\n        raise ValueError('no')\n",
            "dice.py:15: ValueError: no (by Dice())",
        ),
        (SOURCE + "\nraise KeyboardInterrupt\n", "dice.py:14: KeyboardInterrupt"),
        (SOURCE.replace("= 42", "= 43"), "it now has the device_id 43 in place of 42"),
    ],
)
def test_device_stays_as_it_was_when_something_is_wrong_with_the_file(
    author: Author, text: str, why: str
) -> None:
    there = author.save(text)
    author.ask()

    assert (there, author.answer()) == (False, b"one")
    [line] = author.said
    assert line.startswith("dice0: stays as it was: ")
    assert line.endswith(why)


@pytest.mark.parametrize(
    "ending",
    ["\nwhile True:\n    pass\n", "\nimport time\ntime.sleep(1)\n"],
    ids=["loop", "wait"],
)
def test_device_stays_as_it_was_when_its_file_makes_no_end(
    author: Author, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.authoring.reloading.LOAD_SECONDS", 0.05)
    there = author.save(SOURCE + ending)
    author.ask()

    assert (there, author.answer()) == (False, b"one")
    assert author.said == [f"dice0: stays as it was: {author.file}: made no device within 0.05 s"]
    monkeypatch.undo()
    assert author.save(SOURCE)


def test_device_is_back_when_another_cannot_go_on_in_its_place(author: Author) -> None:
    new = author.machine.hardware.makers["dice0"]()
    with pytest.raises(ConfigurationError):
        author.machine.exchange("dice0", new, lambda state: state._replace(device={"sides": "six"}))
    author.ask()

    assert author.answer() == b"one"
    assert author.driver.status == 0x0F


def test_handler_that_fails_is_mended_and_its_chain_is_answered(author: Author) -> None:
    author.save(SOURCE.replace('b"one"', "1 / 0"))
    author.fail()

    assert author.save(SOURCE.replace('b"one"', 'b"two"'))
    assert author.answer() == b"two"
    assert "with the chain at which it failed" in author.said[-1]
    assert len(author.failures) == 1


def test_handler_that_fails_again_waits_again(author: Author) -> None:
    author.save(SOURCE.replace('b"one"', "1 / 0"))
    author.fail()
    author.save(SOURCE.replace('b"one"', "len(7)"))
    wait_until(lambda: len(author.failures) == 2)
    author.save(SOURCE)

    assert author.answer() == b"one"


def test_device_that_does_not_take_the_state_begins_anew(author: Author) -> None:
    author.ask()
    author.answer()
    broken = "\n    def restore(self, state):\n        if state['config']['rolls']: len(7)\n"
    author.save(SOURCE.replace('b"one"', 'b"two"') + broken)
    author.ask()

    assert author.answer() == b"two"
    assert "without the old one's state (TypeError" in author.said[-1]


def test_name_of_no_device_of_a_file_is_told_with_those_that_are(author: Author) -> None:
    assert not author.reloader.reload("block0")
    [line] = author.said
    assert line == "block0: is no device of a file; there are: dice0"


def test_device_of_the_machines_own_is_not_replaced(author: Author) -> None:
    with pytest.raises(ConfigurationError, match="no such device"):
        author.machine.hardware.device("entropy")


def test_file_of_a_machine_that_has_ended_changes_nothing(author: Author) -> None:
    author.machine.stop()

    assert not author.save(SOURCE)
    assert author.said == ["dice0: stays as it was: the guest has ended"]
