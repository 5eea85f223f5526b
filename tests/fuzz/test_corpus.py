"""The committed corpora, and a fixed number of inputs made from them, break no promise."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.guard import Guard
from tests.fuzz.mutate import mutations
from tests.fuzz.targets import TARGETS, load_target

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = 2000

every_target = pytest.mark.parametrize("target", TARGETS)


def corpus_of(target: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


@every_target
def test_every_input_of_the_corpus_keeps_the_promises(target: str) -> None:
    run = Guard(load_target(target))

    for name, data in corpus_of(target).items():
        with noted(f"input {name}"):
            run(data)


@every_target
def test_mutations_of_the_corpus_keep_the_promises(target: str) -> None:
    run = Guard(load_target(target))
    seeds = list(corpus_of(target).values())

    for data in mutations(seeds, MUTATIONS, Random(20)):
        with noted(f"input {data.hex()}"):
            run(data)


@every_target
def test_inputs_without_content_are_taken(target: str) -> None:
    run = load_target(target)

    for length in range(20):
        run(bytes(length))


def test_corpora_are_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]

    assert max(sizes) <= 4096
    assert sum(sizes) < 300_000


class noted:
    """Says which input it was, when the block fails."""

    def __init__(self, note: str) -> None:
        self.note = note

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            error.add_note(self.note)
