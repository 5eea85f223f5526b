"""The Python examples of the README run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest

from virtio.testing import Bench

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.timeout(2400)
def test_examples_run_as_they_stand_in_the_readme(capfd: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)

    assert len(blocks) == 8
    bench = Bench(namespace["Zeros"](), 1 << 32)
    bench.drivers[0].add([bytes(16)], [512, 1])
    bench.serve()
    assert [used.data for used in bench.drivers[0].collect()] == [bytes(513)]
    ticker = namespace["Ticker"]()
    bench = Bench(ticker, 1 << 32)
    bench.drivers[0].add([], [16])
    ticker.tick(b"tick")
    bench.loop.run_once()
    assert [used.data[: used.length] for used in bench.drivers[0].collect()] == [b"tick"]
    assert capfd.readouterr().out == "the guest powered off\none\ntwo\n"
