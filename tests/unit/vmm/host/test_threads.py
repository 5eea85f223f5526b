"""Threads that leave signals to the main thread."""

import signal
import threading

from vmm.host import threads


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
    threads.start(thread)
    thread.join()

    wanted = {int(one) for one in threads.FOR_THE_MAIN_THREAD}
    assert [wanted <= mask for mask in masks] == [True, True]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
