"""What boots when nobody chose a kernel: ours where it is or pays, else a stock one at hand."""

import pytest

from virtio.errors import ConfigurationError
from vmm.image import kernels, usual_kernel
from vmm.image.usual_kernel import usual_kernel as usual


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a host with hardware KVM and no kernel of ours; gives the stock ones asked for."""
    names: list[str] = []
    monkeypatch.setattr(usual_kernel, "is_emulated_host", lambda: False)
    monkeypatch.setattr(usual_kernel, "cached_kernel", lambda *, cpus, pci: None)
    monkeypatch.setattr(kernels, "find_kernel", lambda name, progress: names.append(name))
    return names


def test_an_ordinary_host_takes_debians_kernel(asked: list[str]) -> None:
    assert usual() == "debian"
    assert asked == ["debian"]


def test_a_host_without_debians_takes_its_own(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str, progress: object) -> None:
        asked.append(name)
        if name == "debian":
            raise ConfigurationError("no network")

    monkeypatch.setattr(kernels, "find_kernel", find)

    assert usual() == "host"


def test_a_host_with_neither_builds_ours(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, progress: object) -> None:
        raise ConfigurationError("not at hand")

    monkeypatch.setattr(kernels, "find_kernel", find)

    assert usual() is None


def test_ours_is_taken_where_it_was_built(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        usual_kernel, "cached_kernel", lambda *, cpus, pci: (cpus, pci) == (1, False)
    )

    assert usual(cpus=1) is None
    assert usual(cpus=2) == "debian"
    assert usual(cpus=1, pci=True) == "debian"


def test_a_host_that_emulates_guest_kernels_takes_ours(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usual_kernel, "is_emulated_host", lambda: True)

    assert usual() is None
    assert asked == []
