"""Checks a reader's file, in a process of its own: ``python -m vmm.course.child N FILE FD``.

What it finds goes to a descriptor, a line each: ``step TEXT``, ``missing TEXT``, ``host
ERRNO FILE`` or ``done``. Output of the file itself goes where it went anyway.
"""

import importlib
import os
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from vmm.course.chapters import chapter
from vmm.course.lab import GuestRunsOn
from vmm.course.missing import Missing


def main(number: str, file: str, descriptor: str) -> None:
    """Check one file against the exercise of a chapter."""
    fd = int(descriptor)

    def tell(kind: str, text: str = "") -> None:
        os.write(fd, f"{kind} {' '.join(text.split())[:2000]}\n".encode("utf-8", "replace"))

    checker = importlib.import_module(f"vmm.course.checks.chapter_{chapter(number).number:02}")
    try:
        checker.check(_load(Path(file)), lambda text: tell("step", text))
    except (Missing, GuestRunsOn) as error:
        tell("missing", str(error))
    except OSError as error:
        if _lines(error, file):
            tell("missing", _told(error, file))
        else:
            tell("host", f"{error.errno or 0} {error.filename or ''}")
    except BaseException as error:
        tell("missing", _told(error, file))
    else:
        tell("done")


def _load(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent.absolute()))
    spec = spec_from_file_location("mine", path)
    if spec is None or spec.loader is None:
        raise Missing(f"{path.name}: a file of Python ends in .py")
    module = module_from_spec(spec)
    sys.modules["mine"] = module
    spec.loader.exec_module(module)
    return module


def _lines(error: BaseException, file: str) -> list[int | None]:
    """Return the lines of the reader's file that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    return [one.lineno for one in frames if one.filename == file]


def _told(error: BaseException, file: str) -> str:
    name = Path(file).name
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{name}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    if isinstance(error, SystemExit):
        return f"{name} ends the program (SystemExit), which the checker needs to go on"
    if lines := _lines(error, file):
        return f"{name}, line {lines[-1]}: {what}"
    return f"the checker cannot use what {name} gave it: {what}"


if __name__ == "__main__":
    main(*sys.argv[1:])
