"""Threads that leave signals to the main thread."""

import re
import signal
import threading
from pathlib import Path

import vmm
from vmm.host.threads import FOR_THE_MAIN_THREAD, start_thread


def test_thread_and_those_it_starts_block_the_signals_of_the_main_thread() -> None:
    masks: list[set[int]] = []

    def note() -> None:
        masks.append({int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())})

    def main() -> None:
        note()
        inner = threading.Thread(target=note)
        inner.start()
        inner.join()

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    thread = threading.Thread(target=main)
    start_thread(thread)
    thread.join()

    wanted = {int(one) for one in FOR_THE_MAIN_THREAD}
    assert [wanted <= mask for mask in masks] == [True, True]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_every_thread_of_the_program_is_started_so() -> None:
    makers = [
        path.name
        for path in Path(vmm.__file__).parent.rglob("*.py")
        if re.search(r"threading\.(Thread|Timer)\(", text := path.read_text())
        and "start_thread(" not in text
    ]

    assert makers == []
