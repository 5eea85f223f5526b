"""Loggers of ``logging``, which is imported when the first of them has something to say.

Most runs have nothing to say, and that import takes half as long as the interpreter's start.
"""

import sys
from contextlib import suppress
from typing import Final

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40

_NAMES: Final = {DEBUG: "DEBUG", INFO: "INFO", WARNING: "WARNING", ERROR: "ERROR"}
_shown: int | None = None


def show(level: int) -> None:
    """Write what is logged from ``level`` on to stderr, as the one who owns this process.

    A process that uses ``logging`` gets a handler of that, unless it has one.
    """
    global _shown
    if "logging" in sys.modules:
        import logging

        logging.basicConfig(format="vmm: %(levelname)s: %(name)s: %(message)s", level=level)
    else:
        _shown = level


class Logger:
    """A logger of ``logging``, by its name: the module that logs.

    >>> Logger("virtio.example").info("block %d was %s", 7, "read")
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, message: str, *values: object) -> None:
        """Log what only those want to see who look for a fault."""
        self._log(DEBUG, message, values)

    def info(self, message: str, *values: object) -> None:
        """Log a step that went as it should."""
        self._log(INFO, message, values)

    def warning(self, message: str, *values: object) -> None:
        """Log what somebody should look at."""
        self._log(WARNING, message, values)

    def error(
        self, message: str, *values: object, traceback_of: BaseException | None = None
    ) -> None:
        """Log a failure; with the traceback of what was raised, where that says more."""
        self._log(ERROR, message, values, traceback_of)

    def exception(self, message: str, *values: object) -> None:
        """Log a failure with the traceback of the exception that is being handled."""
        self._log(ERROR, message, values, sys.exc_info()[1])

    def shows(self, level: int) -> bool:
        """Whether anybody sees what is logged at ``level``."""
        if _shown is not None:
            return level >= _shown
        if "logging" not in sys.modules:
            return level >= WARNING  # the library's default, which nobody changed without it
        import logging

        return logging.getLogger(self._name).isEnabledFor(level)

    def _log(
        self,
        level: int,
        message: str,
        values: tuple[object, ...],
        error: BaseException | None = None,
    ) -> None:
        if not self.shows(level):
            return
        if _shown is None:
            import logging

            logger = logging.getLogger(self._name)
            logger.log(level, message, *values, exc_info=error, stacklevel=3)
            return
        text = f"vmm: {_NAMES[level]}: {self._name}: {message % values if values else message}\n"
        with suppress(OSError, ValueError):  # nobody reads it, and the run must not end for that
            sys.stderr.write(text)
            if error is not None:  # by the interpreter itself, which imports nothing for it
                sys.__excepthook__(type(error), error, error.__traceback__)
            sys.stderr.flush()
