"""IPython on a terminal, and the same lines from a file or a pipe."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO

from virtio.errors import ConfigurationError, Error

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

NO_IPYTHON: Final = "IPython is not installed: pip install 'pyvmm[shell]'"

Magics = Mapping[str, Callable[[str], object]]


def check_ipython() -> None:
    """Raise :class:`ConfigurationError` where there is no IPython."""
    try:
        import IPython  # noqa: F401
    except ImportError:
        raise ConfigurationError(NO_IPYTHON) from None


def run_prompt(
    names: dict[str, Any], magics: Magics, banner: str, on_shell: Callable[[InteractiveShell], None]
) -> None:
    """Serve a user at the terminal, with the settings and the history of her IPython."""
    from IPython.terminal.ipapp import TerminalIPythonApp
    from traitlets.config import Config

    config = Config()
    config.TerminalInteractiveShell.confirm_exit = False
    config.TerminalInteractiveShell.banner1 = banner
    config.TerminalInteractiveShell.banner2 = ""
    app = TerminalIPythonApp.instance(config=config, user_ns=names)
    app.initialize(argv=[])
    _prepare(app.shell, magics, on_shell)
    try:
        app.start()
    finally:
        _let_go(app.shell)
        TerminalIPythonApp.clear_instance()


def run_lines(
    source: TextIO,
    names: dict[str, Any],
    magics: Magics,
    on_shell: Callable[[InteractiveShell], None],
) -> bool:
    """Run the lines of ``source`` as if they were typed; whether none of them raised.

    As at the prompt, what is raised is shown and the next lines are run.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class LinesShell(InteractiveShell):  # type: ignore[misc]
        def ask_exit(self) -> None:
            self.exit_now = True

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    with tempfile.TemporaryDirectory(prefix="vmm-shell-") as folder:
        shell = LinesShell.instance(config=config, user_ns=names, ipython_dir=folder)
        _prepare(shell, magics, on_shell)
        succeeded = True
        try:
            for cell in _cells(source, shell):
                result = shell.run_cell(cell, store_history=True)
                sys.stdout.flush()
                succeeded &= result.success
                if shell.exit_now or isinstance(result.error_in_exec, KeyboardInterrupt):
                    break
        finally:
            _let_go(shell)
            LinesShell.clear_instance()
    return succeeded


def _cells(source: TextIO, shell: InteractiveShell) -> Iterator[str]:
    """Yield pieces that a prompt would run, each when the line after which it would has come."""
    cell = ""
    for line in source:
        cell += line
        if shell.check_complete(cell.removesuffix("\n"))[0] != "incomplete":
            if cell.strip():
                yield cell
            cell = ""
    if cell.strip():
        yield cell


def _prepare(
    shell: InteractiveShell, magics: Magics, on_shell: Callable[[InteractiveShell], None]
) -> None:
    for name, function in magics.items():
        shell.register_magic_function(function, "line", name)
    shell.set_custom_exc((Error,), _show_error)
    on_shell(shell)


def _show_error(shell: Any, kind: type, error: BaseException, *_: Any, **__: Any) -> None:
    """Show one of our errors in a line: it says what to do, and its frames are ours."""
    print(f"{kind.__name__}: {error}")


def _let_go(shell: InteractiveShell) -> None:
    """Drop what the lines made, as it may have the guest's memory."""
    shell.reset(new_session=False)
    shell.user_ns.clear()
    shell.InteractiveTB.tb = None
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
