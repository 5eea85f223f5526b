"""The guest's loader of modules, as a program of this host: what parameters it gives a module."""

import subprocess
from pathlib import Path

import pytest

from vmm.image.kernel import recipe_folder
from vmm.image.program import compiled_freestanding

SOURCE = """\
#include "freestanding.h"

#include "modules.h"

/* NAME COMMAND-LINE: prints the parameters. */
int main(int count, char **arguments, char **environment)
{
    (void)environment;
    (void)load_modules, (void)module_folder;
    if (count == 3)
        find_parameters(arguments[2], arguments[1], length(arguments[1]));
    say(module_parameters);
    CALL(exit_group, 0, 0, 0, 0, 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    for name in ("freestanding.h", "modules.h"):
        (folder / name).write_bytes((recipe_folder() / name).read_bytes())
    (folder / "tell.c").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYVMM_CACHE", str(folder / "cache"))
        built = compiled_freestanding(folder / "tell.c")
    if built is None:
        pytest.skip("no C compiler")
    return built


@pytest.mark.parametrize(
    ("line", "parameters"),
    [
        ("", ""),
        ("quiet\n", ""),
        ("quiet virtio_blk.queue_depth=32 panic=-1\n", "queue_depth=32 "),
        ("virtio-blk.a=1 virtio_blk.b virtio_blk.c=\n", "a=1 b c= "),
        ("xvirtio_blk.a=1 virtio_blkx.a=1 virtio_blk a.virtio_blk.x=1\n", ""),
        ('"virtio_blk.text=two words" virtio_blk.b="c d"\n', '"text=two words" b="c d" '),
        ('note="see virtio_blk.a=1 there" x\n', ""),
        ("virtio_blk.a=1 -- virtio_blk.b=2\n", "a=1 "),
        ("virtio_blk.a=1  virtio_blk.b=2", "a=1 b=2 "),
    ],
)
def test_a_module_gets_its_parameters_from_the_command_line(
    program: Path, line: str, parameters: str
) -> None:
    done = subprocess.run([program, "virtio_blk", line], capture_output=True, text=True, check=True)

    assert done.stdout == parameters


def test_the_longest_command_line_stays_within_the_buffer(program: Path) -> None:
    line = " ".join(["m.a=1"] * 682)
    done = subprocess.run([program, "m", line], capture_output=True, text=True, check=True)

    assert len(line) == 4091
    assert done.stdout == "a=1 " * 682
