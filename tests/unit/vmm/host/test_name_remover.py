"""A name goes with the one who asked for that, and only if it is still the same."""

from pathlib import Path

from vmm.host.name_remover import NameRemover


def test_the_name_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.touch()
    with NameRemover(str(path)) as remover:
        assert path.exists()
    remover.close()

    assert not path.exists()


def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.touch()
    with NameRemover(str(path)):
        path.rename(tmp_path / "other")
        path.write_text("theirs")

    assert path.read_text() == "theirs"
