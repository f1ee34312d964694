import io
from pathlib import Path

import pytest
from rich.console import Console

from rosa_bench.cli.commands import models as catalog
from rosa_bench.config.files.folder import files_in
from rosa_bench.models.weights.wheel import NEEDED, pulled_folder
from rosa_bench.system.errors import UserError

FILES = files_in("model")
NAMES = sorted(set(FILES) - {"auto"})  # which is found from the model itself


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed, on a wide screen."""
    text = io.StringIO()
    console = Console(file=text, width=300)
    monkeypatch.setattr(catalog, "get_console", lambda: console)
    return text


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSA_BENCH_CACHE", str(tmp_path / "cache"))


def lines(text: str) -> dict[str, str]:
    """The table's lines by model."""
    return {line.split()[0]: line for line in text.splitlines() if line.split() and line.split()[0] in NAMES}


def test_every_file_is_a_model_of_its_own_name() -> None:
    specs = catalog.load_specs(FILES)
    assert sorted(specs) == NAMES
    assert all(spec.name == name for name, spec in specs.items())


def test_every_model_is_listed_with_size_licence_source_and_note(screen: io.StringIO) -> None:
    catalog.show(FILES)
    shown = lines(screen.getvalue())
    assert sorted(shown) == NAMES
    for word in ("109.5 M", "Apache-2.0", "hub or wheel"):
        assert word in shown["mpnet_base"]
    [note] = [line for line in screen.getvalue().splitlines() if "not RoBERTa-base" in line]
    assert note.startswith("minilm, mpnet_base: ")  # what a reader of their figures must know
    assert "124.6 M" in shown["roberta_base"]
    assert "random draw" in shown["tiny_bert"]
    assert " k " in shown["tiny_bert"]


def test_no_name_is_cut_on_a_narrow_screen(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "get_console", lambda: Console(file=screen, width=40))
    catalog.show(FILES)
    table = screen.getvalue().partition("rosa-bench models pull")[0]
    assert sorted(lines(table)) == NAMES


def test_pulled_weights_are_listed_as_present(screen: io.StringIO) -> None:
    catalog.show(FILES)
    before = lines(screen.getvalue())
    assert " no " in before["minilm"]
    assert " yes " in before["tiny_bert"]
    folder = pulled_folder(catalog.load_specs(FILES)["minilm"])
    assert folder is not None
    folder.mkdir(parents=True)
    for name in NEEDED:
        (folder / name).touch()
    screen.truncate(0)
    catalog.show(FILES)
    after = lines(screen.getvalue())
    assert "yes (wheel)" in after["minilm"]
    assert " no " in after["mpnet_base"]


def test_a_file_that_is_not_a_model_is_reported_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("name: toy\ntitle: Toy\ncolour: red\n")
    with pytest.raises(UserError, match=r"model\.toy.*colour"):
        catalog.load_specs({"toy": tmp_path / "toy.yaml"})


def test_an_unknown_model_is_reported_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"model=unheard_of.*minilm, mlp1, mlp2, mpnet_base"):
        catalog.pull_named(FILES, "unheard_of")


def test_pull_prints_where_the_model_is(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pulled = []

    def pull(model: object) -> Path:
        pulled.append(model)
        return tmp_path / "there"

    monkeypatch.setattr(catalog, "pull", pull)
    catalog.pull_named(FILES, "minilm")
    assert pulled == [catalog.load_specs(FILES)["minilm"]]
    assert f"minilm is in {tmp_path / 'there'}" in screen.getvalue()
