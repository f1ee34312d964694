"""The plan on disk, and what excludes a method."""

from pathlib import Path

import pytest

from rosa_bench.choose.candidates import Untried, candidates
from rosa_bench.choose.measuring import UnfitError, check_memory, nothing_fits
from rosa_bench.choose.plan import Arm, Cost, Rows, Size
from rosa_bench.choose.state import Choice, choice_id, load_choice, save_choice
from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.system.errors import UserError

CHOICE = Choice(
    id="cola-minilm-0", given=["task=cola"], limits=["epochs=3"], rows=Rows(10, 5, 0.1, 1000), about="",
    size=Size([Arm("lora", 2e-3, 8), Arm("ft", 6e-5)], epochs=3, seeds=3, rows=None, seconds=1.5),
    costs={"ft": Cost(1, 2, 3, 4, 5)}, untried=[Untried("dora", "why")], reference="ft", spent_s=60.5,
)  # fmt: skip


def test_a_choice_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load_choice(tmp_path / "choose" / "a.json") is None
    save_choice(CHOICE, tmp_path / "choose" / "a.json")
    assert load_choice(tmp_path / "choose" / "a.json") == CHOICE


@pytest.mark.parametrize("text", ["", "[", "{}", "[" * 10_000, '{"id": 3}', "\xff"])
def test_what_is_not_a_choice_is_named_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.json is not the plan of a choice.*move it away"):
        load_choice(path)
    assert path.read_text(encoding="latin-1") == text


def test_the_id_changes_with_whatever_can_change_the_choice() -> None:
    arms = {Arm("lora", 2e-3, 8): {"data": "a"}, Arm("ft", 6e-5): {"data": "a"}}
    ids = [
        choice_id(arms, (None, 3), task="cola", model="minilm"),
        choice_id({arm: {"data": "b"} for arm in arms}, (None, 3), task="cola", model="minilm"),
        choice_id({Arm("ft", 6e-5): {"data": "a"}}, (None, 3), task="cola", model="minilm"),
        choice_id(arms, (16.0, 3), task="cola", model="minilm"),
    ]
    assert len(set(ids)) == 4
    assert choice_id(dict(arms), (None, 3), task="cola", model="minilm") == ids[0]


def test_default_rates_and_the_first_rank_come_first_and_a_method_without_rank_once() -> None:
    with composing():
        found = candidates(
            ["task=cola", "protocol=fair"],
            Composer(),
            methods=["lora", "ft", "laser"],
            ranks=[8, 2],
            lr_half_decades=[0, 1],
            reference="ft",
        )
    assert list(found.configs) == [
        Arm("lora", 2e-3, 8), Arm("ft", 6e-5), Arm("lora", 2e-3, 2),
        Arm("lora", 6e-3, 8), Arm("ft", 2e-4), Arm("lora", 6e-3, 2),
    ]  # fmt: skip
    assert [one.what for one in found.untried] == ["laser"]
    assert all(config.lr == arm.lr for arm, config in found.configs.items())


def test_too_little_memory_names_the_method_that_needs_least() -> None:
    unfit = {}
    for name, needed in {"ft": 3 * 2**30, "lora": 2**31}.items():
        with pytest.raises(UnfitError) as error:
            check_memory(needed, 2**30)
        unfit[name] = error.value
    check_memory(2**30, 2**30)
    check_memory(2**40, None)
    assert "memory_gb=1 is too little for any method: lora needs 2 GiB or more" in nothing_fits(unfit, 1.0, 2**30)
    unfit["dora"] = UnfitError("it does not suit the model")
    assert "dora: it does not suit the model" in nothing_fits(unfit, 1.0, 2**30)
