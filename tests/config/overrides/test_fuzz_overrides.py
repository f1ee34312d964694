"""Overrides that nobody would type on purpose: each composes to checked settings, or is refused in one line.

Nothing is loaded or trained. A seed makes each case, so that a failure can be repeated: ``arguments(seed)``.
"""

import random
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest

from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.declared import hints
from rosa_bench.config.groups import GROUPS, kinds
from rosa_bench.config.overrides.grammar import spelled
from rosa_bench.config.overrides.mistakes import check_overrides, composition_errors
from rosa_bench.config.schema import Plain, RunConfig, Shorthand
from rosa_bench.system.errors import UserError

HANG_S = 60
LONGEST_MESSAGE = 2000
KEYS = sorted(
    {
        *GROUPS, "experiment", "launch", "recipe", "hydra.run.dir", "hydra/launcher", "task.decoding.beams",
        "task.decoding.length_penalty", "model.random.num_hidden_layers", "task.hub.revision",
        *(name for kind in (Plain, Shorthand) for name in hints(kind)),
        *(f"{group}.{name}" for group in GROUPS for kind in kinds(group) for name in hints(kind)),
    }
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1", "1.5", "1e308", "nan", "inf", "-inf", "null", "true", "1_000", "007", "0x1f", "4e56781",
    "2026_11_28", "[", "]", "[]", "{}", "{a:1}", "[1,2]", "a,b", "1,2", ",", "a,", "'", '"', "'a'", "'a", "\\", "\\'",
    "${", "${}", "${seed}", "${nowhere}", "${oc.env:NOWHERE}", "${lr}", "${method}", "${default_for:x}",
    "${default_for:method.lr}", "${a:${b}}", "$", "~", "~/x", "é", "\x00", "\n", "\u2028", "\ud800", "a b", "=", "a=b",
    "range(3)", "range(0,1,0)", "range(0,1000000000000)", "choice(", "choice(1,2)", "glob(*)", "interval(0,1)",
    "int(x)", "str(1)", "sort(1,2)", "shuffle(range(3))", "tag(a,1)", "???", "_target_", "os.system", "100000",
    "1000000", "9" * 30, "9" * 5000, "(a+", "@", "#", "%s", "cola", "rosa", "x" * 20_000, "[" * 200, "${" * 200,
    "[" * 40 + "]" * 40,
)  # fmt: skip
FORMS = (
    "{key}={value}", "+{key}={value}", "++{key}={value}", "~{key}", "~{key}={value}", "{key}.x={value}",
    "{key}@y={value}", "{key}", "={value}", "{value}", "{key}.={value}", ".{key}={value}", "{key}[0]={value}",
    "{key}/x={value}", "{key}=={value}", " {key}={value}", "hydra.{key}={value}", "default.{key}={value}",
    "+{key}.x.y={value}", "{key}:{value}", "{key} ={value}",
)  # fmt: skip
ONCE_WRONG = (870, 1680, 1450, 2007)  # a line end in device= and in protocol=, a long message, an element by a name
WEIGHTS = (40, 6, 6, *[1] * (len(FORMS) - 3))


def arguments(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        draw.choices(FORMS, WEIGHTS)[0].format(key=draw.choice(KEYS), value=draw.choice(VALUES))
        for _ in range(draw.randint(1, 3))
    ]


@pytest.fixture(scope="module")
def composed() -> Iterator[Callable[[list[str], bool], list[RunConfig]]]:
    """``composed(arguments, sweep)``: what the program makes of them, up to its first jobs."""
    with composing() as composer:
        shared: Composer = composer

        def compose(given: list[str], sweep: bool) -> list[RunConfig]:
            with composition_errors():
                typed = spelled(given, sweep=sweep)
                check_overrides(typed)
                jobs = shared.expand(typed)[:2] if sweep else [tuple(typed)]
                return [parse(shared.compose(job)) for job in jobs]

        yield compose


@pytest.fixture
def no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("this case hangs")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(
    "seeds",
    [range(60), ONCE_WRONG, *(pytest.param(range(start, 3000, 4), marks=pytest.mark.long) for start in range(60, 64))],
    ids=lambda seeds: f"{len(seeds)} from {seeds[0]}",
)
def test_any_override_is_a_setting_or_is_refused_in_one_line(
    composed: Callable[[list[str], bool], list[RunConfig]], seeds: Sequence[int]
) -> None:
    wrong = {}
    for seed in seeds:
        signal.alarm(HANG_S)
        try:
            made = composed(arguments(seed), bool(seed % 2))
            assert all(type(config) is RunConfig for config in made)
        except UserError as error:
            message = str(error)
            if not message or len(message.splitlines()) != 1 or len(message) > LONGEST_MESSAGE:
                wrong[seed] = message
        except Exception as error:
            wrong[seed] = f"{type(error).__name__}: {error}"
    assert not wrong


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(("given", "words"), [
    (["seed=range(0,1000000000000)"], ["more than 100000 jobs", "seed"]),
    (["seed=range(0,400)", "lr=range(1,400)"], ["more than 100000 jobs"]),
    (["seed=range(0,1,0)"], ["seed=range(0,1,0): ", "must not be zero"]),
    (["method=choice(1,2)"], ["method=1: ", "must be a string"]),
    (["hydra/launcher=[[joblib]]"], ["hydra/launcher takes one name, not [[joblib]]"]),
    (["=\n"], [r"=\n has no key"]),
    (["seed=" + "9" * 5000], ["seed", "too many digits", "at most 300"]),
    (["task=e2e_nlg", "model=tiny_gpt2", "task.decoding.beams=100000"], ["task.decoding.beams=100000", "at most"]),
    (["task=e2e_nlg", "model=tiny_gpt2", "task.decoding.length_penalty=nan"], ["task.decoding.length_penalty=nan"]),
    (["model=tiny_bert", "model.random.num_hidden_layers=1000000"], ["num_hidden_layers=1000000", "at most 1000"]),
    (["model=tiny_bert", "+model.random.initializer_range=nan"], ["model.random.initializer_range=nan"]),
    (["model=\ud800"], ["the argument model has half of a character"]),
    (["method=\udc41"], ["the argument method has half of a character"]),
    (["method=lora", "method.targets=[[q]]"], ["method.targets=[[q]] is not clear", "nested set", "backslash"]),
])  # fmt: skip
def test_values_that_cannot_be_used_are_refused_at_once(
    composed: Callable[[list[str], bool], list[RunConfig]], given: list[str], words: list[str]
) -> None:
    signal.alarm(HANG_S)
    with pytest.raises(UserError) as raised:
        composed(given, True)
    assert [word for word in words if word not in str(raised.value)] == []
