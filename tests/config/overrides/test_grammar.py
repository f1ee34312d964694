import shlex
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rosa_bench.config.build import build, typed
from rosa_bench.config.composing.compose import composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.declared import alternatives, hints
from rosa_bench.config.groups import GROUPS, kinds
from rosa_bench.config.overrides.grammar import is_text, spelled, written
from rosa_bench.config.schema import Plain, RunConfig, Shorthand
from rosa_bench.methods.base import Method
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import Setting, settings_of
from rosa_bench.tasks.classification.own import OwnTask

LOOKS_LIKE_ANOTHER_TYPE = (
    "2026_11_28", "2026-11-28", "4e56781", "9e12345", "1_000", "007", "0x1f", "0o17", "1.50", "true", "True", "yes",
    "NaN", "inf", ".5", "5.", "-1", "+1", "12:30:45", "Null", "[1,2]", "{a:1}", "[", "{", "int(1)", "range(3)",
)  # fmt: skip
PATHS = (
    "/data/Übung=1 [alt]", "it's", 'a"b', "a'b\"c", "a,b", " a ", "a#b", "a%b", "a$b", "$HOME", "a:b", "a;b", "a(b)",
    "a{b}",
    "a\\b", "a\\", "\\'", "ü/ß/日本", "a@b", "a|b", "a*b?", "=", "a=b=c", "-m", "--x", "~", "a~/b", "${", "a${b",
    "a\tb", "a\nb", "\u2028", "x" * 4000,
)  # fmt: skip


Made = Callable[[list[str]], RunConfig]


@pytest.fixture
def made(compose: Callable[..., RunConfig]) -> Made:
    """``made(["rank=2"])``: the settings that a user's arguments give."""
    return lambda arguments: compose(*spelled(arguments))


@pytest.mark.parametrize("text", [*LOOKS_LIKE_ANOTHER_TYPE, *PATHS])
@pytest.mark.parametrize("key", ["results_dir", "data_dir", "model.revision", "logger.project"])
def test_a_text_setting_is_what_the_user_typed(made: Made, key: str, text: str) -> None:
    config = made([f"{key}={text}"])
    place: Any = config
    for name in key.split("."):
        place = getattr(place, name)
    assert place == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
@example("\\${x}\\'\\\\")
def test_a_written_text_is_read_as_itself_however_often(text: str) -> None:
    argument = f"results_dir={written(text)}"
    for _ in range(2):
        value = OverridesParser.create().parse_override(argument).value()
        assert OmegaConf.create({"key": value}).key == text or text == "???"  # omegaconf's word for a missing value
        [argument] = spelled([argument], sweep=True)


@pytest.mark.parametrize("value", [
    None, True, 3, -2.5, 1e-30, [0.9, 0.999], ["a,b", None, ["it's"]], {"a": "b c", "d": [1]}, "", "null", "1e5",
])  # fmt: skip
def test_a_written_value_is_read_as_itself(value: Any) -> None:
    assert OverridesParser.create().parse_override(f"key={written(value)}").value() == value


def test_a_sweep_refuses_a_comma_inside_brackets_and_takes_the_quoted_value_that_it_proposes() -> None:
    typed_in = r"method.targets=layer\.[0-9]{1,2}\.(query|key)"
    with pytest.raises(UserError, match="comma inside brackets") as refused:
        spelled([typed_in], sweep=True)
    [proposed] = shlex.split(str(refused.value).rpartition(": ")[2])
    assert spelled([proposed], sweep=True) == spelled([typed_in])


@pytest.mark.parametrize(("typed_in", "expected"), [
    ("4e56781,9e12345", ["4e56781", "9e12345"]),
    ("a b, c=d ,[e", ["a b", "c=d", "[e"]),
    ("'a,b',c", ["a,b", "c"]),
    ('"a,b"', ["a,b"]),
    ("it's,b", ["it's", "b"]),
    ("null,x", [None, "x"]),
    ("'null',x", ["null", "x"]),
    ("choice(a,b)", ["a", "b"]),
])  # fmt: skip
def test_commas_separate_the_texts_of_a_sweep_unless_in_quotes(typed_in: str, expected: list[str | None]) -> None:
    with composing() as composer:
        jobs = composer.expand(spelled([f"data_dir={typed_in}"], sweep=True))
        assert [parse(composer.compose(job)).data_dir for job in jobs] == expected


def test_null_is_none_only_where_that_is_allowed(made: Made) -> None:
    assert made(["data_dir=null"]).data_dir is None
    assert made(["data_dir='null'"]).data_dir == "null"
    assert made(["results_dir=null"]).results_dir == "null"


def test_a_tilde_is_the_home_folder_whatever_its_name(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "Hö'me=1 [x],{y} #%$z"
    monkeypatch.setenv("HOME", str(home))
    assert made(["data_dir=~/a b"]).data_dir == f"{home}/a b"
    assert made(["data_dir='~/a b'"]).data_dir == f"{home}/a b"
    monkeypatch.delenv("HOME")
    assert made(["data_dir=a"]).data_dir == "a"  # needs no home


def test_an_interpolation_of_the_user_is_one(made: Made) -> None:
    config = made(["output_dir=a b", "logger.folder=${output_dir}/c"])
    assert config.logger.folder == "a b/c"


def test_a_number_in_a_yaml_is_not_a_text(made: Made) -> None:
    with pytest.raises(UserError, match=r"^results_dir=20261128 is not a text"):
        typed(Plain, {"results_dir": 2026_11_28})
    with pytest.raises(UserError, match=r"^task\.labels\[1\]=1000\.0 is not a text"):
        typed(OwnTask, {"name": "classify", "labels": ["a", 1e3]}, at="task")


@pytest.mark.parametrize(("text", "words"), [("[[x]]", "is a list, not a text"), ("[{a: 1}]", "is a mapping, not")])
def test_a_list_of_texts_holds_no_lists(made: Made, text: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^task\.text\[0\] {words}"):
        made(["task=classify", "data=mine.csv", f"task.text={text}"])


UNQUOTED = [one for one in (*LOOKS_LIKE_ANOTHER_TYPE, *PATHS) if not set(one) & set("[]{},'\"$")]


@pytest.mark.parametrize("text", [one for one in UNQUOTED if one == one.strip()])
@pytest.mark.parametrize("as_typed", ["[{}]", "[ {} ]", "[x,{}]"])
def test_a_list_of_texts_has_what_the_user_typed(made: Made, text: str, as_typed: str) -> None:
    task = made(["task=classify", f"task.text={as_typed.format(text)}"]).task
    assert isinstance(task, OwnTask)
    assert task.text[-1] == text


@pytest.mark.parametrize(("argument", "expected"), [
    ("task.text=[2020],['a, b', Übung (neu)]", "task.text=['2020'],['a, b','Übung (neu)']"),
    ("task.text=choice([2020],[a])", "task.text=choice([2020],[a])"),
    ("task.text=[]", "task.text=[]"),
    ("task.text=[[a],b]", "task.text=[[a],b]"),
    ("task.interval=[0,1e3]", "task.interval=[0,1e3]"),  # numbers
])  # fmt: skip
def test_lists_of_texts_in_a_sweep(argument: str, expected: str) -> None:
    assert spelled([argument], sweep=True) == [expected]


@pytest.mark.parametrize("value", ["[2020,]", "[é [en]]", "[it's é]"])
def test_a_list_that_cannot_be_read_says_what_helps(made: Made, value: str) -> None:
    with pytest.raises(UserError, match="is not a list; put each text in it in quotes"):
        made(["task=classify", f"task.text={value}"])


def test_a_value_that_was_resolved_is_not_resolved_again() -> None:
    found = typed(Plain, {"results_dir": "${oc.env:HOME}", "lr": 1, "epochs": 1, "batch_size": 1, "max_length": 1})
    assert found.results_dir == "${oc.env:HOME}"


def test_a_target_outside_of_the_package_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for target in ("foreign.Method", "os.system", "rosa_bench_foreign.x", "", ".", "rosa_bench"):
        with pytest.raises(UserError, match="is not a rosa_bench Method"):
            build(Method, {"_target_": target}, at="method")


def declared(kind: Any, at: str) -> Iterator[tuple[str, Any, Setting]]:
    for field, known in settings_of(kind):
        for one in alternatives(hints(kind)[field.name]):
            if is_dataclass(one):
                yield from declared(one, f"{at}{field.name}.")
            yield f"{at}{field.name}", one, known


DECLARED = [
    *(row for kind in (Plain, Shorthand) for row in declared(kind, "")),
    *(row for group in GROUPS for kind in kinds(group) for row in declared(kind, f"{group}.")),
]


def test_every_number_has_a_range() -> None:
    """So that nothing takes for ever, and NaN and infinity are refused."""
    numbers = [(key, known) for key, kind, known in DECLARED if kind in (int, float)]
    assert len(numbers) > 40
    for key, known in numbers:
        assert known.at_least is not None or known.above is not None, key
        assert known.at_most is not None or known.below is not None, key


def test_a_setting_is_a_text_or_not_under_every_choice_of_its_group() -> None:
    numbers = {key for key, kind, _ in DECLARED if kind is int}  # one of them may be a word too, as packed=auto
    texts = {key for key, kind, _ in DECLARED if kind is str} - numbers
    assert {key for key in texts if not is_text(key)} == set()
    assert {"results_dir", "task.hub.revision", "method.targets", "model.path"} <= texts
    assert is_text("hydra.run.dir") and is_text("default.method.targets") and not is_text("rank")


@pytest.mark.parametrize(("argument", "words"), [
    ("=5", "no key"),
    ("rank=" + "9" * 20_000, "at most 10000"),
    ("rank=" + "[" * 60, "too many brackets"),
    ("data_dir[0]=x", "cannot be read"),
])  # fmt: skip
def test_what_is_no_override_is_reported(argument: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        spelled([argument])
    assert len(str(raised.value)) < 300
