"""The wheel, as people get it: a fresh environment without compiler, source tree or built agent.

What a host has beside that is used: the guest kernel in the cache, and BusyBox.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from vmm.image.kernel import cached_kernel

PROJECT = Path(__file__).parents[2]
NOT_SOURCE = (".venv", ".git", ".*_cache", ".hypothesis", "__pycache__", "build", "dist")
BUILT = ("*.so", "programs", "*.egg-info")
DEADLINE = 120

needs_kvm = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs a usable /dev/kvm"
)

TESTS = """
def test_command(guest):
    assert guest.run(["echo", "hi"]).stdout == "hi\\n"
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that ``make wheel`` fills, in a copy of the project without what is built.

    The tree itself is left alone: other tests run from there.
    """
    if shutil.which("gcc") is None or shutil.which("make") is None:
        pytest.skip("building the wheel needs gcc and make")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(*NOT_SOURCE, *BUILT)
    shutil.copytree(PROJECT, folder / "tree", symlinks=True, ignore=ignored)
    command = ["make", "wheel", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.ready"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, f"DIST={folder / 'dist'}"],
        cwd=folder / "tree",
        env=environment,
        capture_output=True,
        text=True,
    )
    if re.search(r"No matching distribution|Could not find a version", done.stderr):
        pytest.skip("no package index is in reach: building needs setuptools and cffi")
    assert done.returncode == 0, done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """Return the one wheel."""
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ``bin`` of a fresh environment with the wheel and pytest."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    pip += ["--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, *project["dependencies"], "pytest"], check=True, capture_output=True)
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, env={"PATH": str(folder / "bin")})
    return folder / "bin"


@pytest.fixture(scope="module")
def environment(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment without a compiler, whose cache holds a guest kernel and no more."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "cache").mkdir(0o755)
    if kernel := cached_kernel():
        entry = kernel.vmlinux.parent
        shutil.copytree(entry, folder / "cache" / entry.name)
    return {"PATH": str(fresh), "HOME": str(folder), "PYVMM_CACHE": str(folder / "cache")}


@pytest.fixture
def kernel() -> None:
    """Skip the test where no guest kernel is cached."""
    if cached_kernel() is None:
        pytest.skip("the guest kernel is not built: make image")


def run(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the fresh environment, in a folder of its own."""
    program = Path(environment["PATH"]) / words[0]
    return subprocess.run(
        [program, *words[1:]],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def compiled(environment: dict[str, str]) -> set[str]:
    """Return which of the guest's programs were made on this host."""
    cached = Path(environment["PYVMM_CACHE"]).iterdir()
    return {"agent", "init"} & {path.name.rpartition("-")[0] for path in cached}


def test_wheel_serves_every_python_and_names_its_oldest_linux(wheel: Path) -> None:
    assert re.fullmatch(r"pyvmm-[\d.]+-cp311-abi3-manylinux_2_\d+_x86_64\.whl", wheel.name)


def test_wheel_holds_the_native_parts_and_the_guests_programs_once_each(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    built = [re.sub(r"-[0-9a-f]{16}$", "-DIGEST", name) for name in names]

    assert sorted(name for name in built if name.endswith(("-DIGEST", ".so"))) == [
        "virtio/native/_native.abi3.so",
        "vmm/image/programs/agent-DIGEST",
        "vmm/image/programs/init-DIGEST",
        "vmm/sandbox/_sandbox.abi3.so",
        "vmm/x86/_run.abi3.so",
    ]


def test_source_archive_holds_what_is_in_the_tree_and_nothing_that_is_built(dist: Path) -> None:
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tree = dist.parent / "tree"
    folders = ("virtio", "transport", "vmm", "guest-images", "tests", "docs")
    sources = [one for folder in folders for one in (tree / folder).rglob("*")]
    wanted = {str(one.relative_to(tree)) for one in sources if one.is_file()}

    assert wanted - names == set()
    assert {"Makefile", "README.md", "CHANGELOG.md", "setup.py", "pyproject.toml"} <= names
    assert [name for name in names if name.endswith(".so") or "programs/" in name] == []


def test_doctor_needs_no_compiler_for_the_agent(
    environment: dict[str, str], tmp_path: Path
) -> None:
    lines = run(environment, tmp_path, "vmm", "doctor").stdout.splitlines()

    assert "agent:  built with the package" in lines
    assert "rings:  served by the native engine" in lines


@needs_kvm
@pytest.mark.usefixtures("kernel")
def test_command_runs_in_a_guest(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, tmp_path, "vmm", "run", "--", "echo", "hi")

    assert (done.returncode, done.stdout) == (0, "hi\n"), done.stderr
    assert not compiled(environment)


@needs_kvm
@pytest.mark.usefixtures("kernel")
def test_plugin_runs_tests_in_a_guest(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    done = run(environment, tmp_path, "python", "-m", "pytest", "-q", "test_mine.py")

    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert not compiled(environment)


@needs_kvm
def test_course_works_from_an_empty_directory(environment: dict[str, str], tmp_path: Path) -> None:
    listed = run(environment, tmp_path, "vmm", "course")
    started = run(environment, tmp_path, "vmm", "course", "start", "1")
    folder = tmp_path / "01-first-instructions"
    ran = run(environment, tmp_path, "python", str(folder / "program.py"))
    checked = run(environment, tmp_path, "vmm", "course", "check", "1", str(folder / "exercise.py"))

    assert listed.stdout.startswith(" 1  Eight instructions")
    assert (started.returncode, started.stderr) == (0, "")
    assert (folder / "drawing.svg").exists()
    assert ran.stdout.endswith("the guest halted\n")
    assert (checked.returncode, checked.stderr) == (1, "")
    assert "missing: the code ends by" in checked.stdout
