"""Benches on both transports; each test's are closed at its end."""

from collections.abc import Callable, Iterator

import pytest

from tests.unit.vmm.driver_check.bench import Bench

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(*arguments: object, **options: object) -> Bench:
        made.append(Bench(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=["mmio", "pci"])
def bench(request: pytest.FixtureRequest, make_bench: MakeBench) -> Bench:
    return make_bench(request.param)


@pytest.fixture
def mmio(make_bench: MakeBench) -> Bench:
    return make_bench("mmio")


@pytest.fixture
def pci(make_bench: MakeBench) -> Bench:
    return make_bench("pci")


@pytest.fixture(params=["mmio", "pci"])
def packed(request: pytest.FixtureRequest, make_bench: MakeBench) -> Bench:
    return make_bench(request.param, packed=True)
