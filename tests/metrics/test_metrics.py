import importlib.metadata
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosa_bench import metrics
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.metrics.text_overlap import score
from rosa_bench.system.errors import UserError

Pairs = list[tuple[int, int]]

FILES = sorted(
    path.stem for path in Path(metrics.__path__[0]).glob("*.py") if "\nINPUTS = " in path.read_text(encoding="utf-8")
)
LOADED = {name: load_metric(name) for name in FILES}
# Pairs of prediction and reference, and different predictions for the same references.
LABELS = ([(0, 0), (1, 1), (1, 0)], [(0, 1), (1, 0), (1, 0)])
TEXTS = ([("A b c d e", ["a b c d e"]), ("", ["f", "g\n\u2028"])], [("a b c d f", ["a b c d e"]), ("z", ["f", "g"])])
SAMPLES: dict[str, tuple[Sequence[tuple[Any, Any]], Sequence[tuple[Any, Any]]]] = {
    name: TEXTS if name == "generation" else LABELS for name in FILES
}


def compute(name: str, pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """The metric's scores for pairs of prediction and reference."""
    predictions, references = (list(column) for column in zip(*pairs, strict=True))
    figures = LOADED[name].module.compute(predictions=predictions, references=references)
    assert figures is not None
    return figures


classes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)
# Spaced so that no sum of squares rounds to zero.
values = st.integers(-1000, 1000).map(lambda number: number / 8)
numbers = st.lists(st.tuples(values, values), min_size=2, max_size=30)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_accuracy_is_the_fraction_of_correct_classes(pairs: Pairs) -> None:
    assert compute("accuracy", pairs) == {"accuracy": sum(guess == truth for guess, truth in pairs) / len(pairs)}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_macro_f1_is_the_mean_over_the_classes_that_occur(pairs: Pairs) -> None:
    def f1(one: int) -> float:
        hits, guessed, true = (sum(map(test, pairs)) for test in (
            lambda pair: pair == (one, one), lambda pair: pair[0] == one, lambda pair: pair[1] == one,
        ))  # fmt: skip
        return 2 * hits / (guessed + true)

    occur = {one for pair in pairs for one in pair}
    figures = compute("classes", pairs)
    assert figures["macro_f1"] == pytest.approx(sum(map(f1, occur)) / len(occur))
    assert figures["accuracy"] == compute("accuracy", pairs)["accuracy"]
    assert figures["matthews_correlation"] == compute("matthews", pairs)["matthews_correlation"]


@given(classes)
def test_matthews_matches_the_confusion_matrix_formula(pairs: Pairs) -> None:
    tp, tn, fp, fn = (pairs.count(cell) for cell in ((1, 1), (0, 0), (1, 0), (0, 1)))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
    figures = compute("matthews", pairs)
    assert set(figures) == {"matthews_correlation", "accuracy"}
    assert figures["matthews_correlation"] == pytest.approx(expected, abs=1e-12)
    assert figures["accuracy"] == pytest.approx((tp + tn) / len(pairs))


def ranks(column: np.ndarray) -> np.ndarray:
    """Ranks from 1; ties get their mean rank."""
    one, other = column[:, None], column[None, :]
    return (one > other).sum(1) + ((one == other).sum(1) + 1) / 2


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    one, two = one - one.mean(), two - two.mean()
    size = math.sqrt((one @ one) * (two @ two))
    return float(one @ two / size) if size else 0.0


@given(numbers)
def test_correlations_match_their_formulas(pairs: list[tuple[float, float]]) -> None:
    one, two = np.array(pairs).T
    figures = compute("correlation", pairs)
    assert set(figures) == {"pearson", "spearman"}
    assert figures["pearson"] == pytest.approx(correlation(one, two), abs=1e-9)
    assert figures["spearman"] == pytest.approx(correlation(ranks(one), ranks(two)), abs=1e-9)


@pytest.mark.parametrize(("pairs", "pearson", "spearman"), [
    ([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)], 1, 1),
    ([(0.0, 3.0), (1.0, 2.0), (2.0, 1.0)], -1, -1),
    ([(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)], 6 / math.sqrt(39), 1),  # monotone, not linear: cov 4/2, var 2/2 and 26/6
])  # fmt: skip
def test_correlations_by_hand(pairs: list[tuple[float, float]], pearson: float, spearman: float) -> None:
    assert compute("correlation", pairs) == pytest.approx({"pearson": pearson, "spearman": spearman})


def test_correlations_do_not_depend_on_the_scale() -> None:
    pairs = [(0.0, 0.0), (1.0, 1.0), (2.0, 4.0), (3.0, 2.0)]
    small = [(1e-4 * guess, 1e-4 * truth) for guess, truth in pairs]
    assert compute("correlation", small) == pytest.approx(compute("correlation", pairs))


@pytest.mark.parametrize(
    "pairs", [[(1, 0), (1, 1)], [(0, 0), (0, 1), (0, 1)], [(0, 1), (1, 1)], [(1, 1), (1, 1)], [(0, 0)]]
)
def test_a_constant_side_gives_zero(pairs: Pairs) -> None:
    assert compute("matthews", pairs)["matthews_correlation"] == 0
    assert compute("correlation", pairs) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("name", FILES)
def test_scores_are_plain_numbers_for_json(name: str) -> None:
    for value in compute(name, SAMPLES[name][0]).values():
        assert type(value) is float


@pytest.mark.parametrize("name", FILES)
def test_a_metric_can_be_computed_twice(name: str) -> None:
    one, other = SAMPLES[name]
    first = compute(name, one)
    assert compute(name, other) != first
    assert compute(name, one) == first


@pytest.mark.parametrize("name", FILES)
def test_declared_scores_are_the_computed_ones(name: str) -> None:
    assert LOADED[name].scores == tuple(compute(name, SAMPLES[name][0]))


@pytest.mark.parametrize("name", [name for name in FILES if name != "generation"])  # which has sacrebleu's format
def test_a_signature_names_every_score_and_its_library(name: str) -> None:
    figures, _, library = LOADED[name].signature.partition("|")
    assert set(figures.split("+")) == set(compute(name, LABELS[0]))
    project, _, version = library.partition(":")
    assert version == importlib.metadata.version(project)


def test_texts_may_have_different_numbers_of_references() -> None:
    predictions, references = (list(column) for column in zip(*TEXTS[0], strict=True))
    assert compute("generation", TEXTS[0]) == score(predictions, references)


def test_values_are_not_rounded_to_classes() -> None:
    assert compute("correlation", [(0.2, 0.1), (0.4, 0.3), (0.3, 0.2)]) == pytest.approx({"pearson": 1, "spearman": 1})


def test_a_package_that_a_metric_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for name in ("generation", "text_overlap"):
        monkeypatch.delitem(sys.modules, f"rosa_bench.metrics.{name}", raising=False)
        monkeypatch.delattr(metrics, name, raising=False)
    with pytest.raises(UserError, match="needs the package sacrebleu, which is not installed"):
        load_metric("generation")


@pytest.mark.parametrize("name", ["unheard_of", "base"])
def test_an_unknown_metric_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=rf"task\.metric={name}"):
        load_metric(name)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"generation"}))
@pytest.mark.parametrize("label", [0, 1])
def test_scores_that_constant_labels_leave_without_meaning_are_declared(name: str, label: int) -> None:
    """A declared score is the same for every guess; any other depends on the guess."""
    right, wrong = (compute(name, [(guess, label), (label, label)]) for guess in (label, 1 - label))
    assert set(LOADED[name].undefined_if_constant) == {score for score in right if right[score] == wrong[score]}
    assert all(map(math.isfinite, [*right.values(), *wrong.values()]))


@pytest.mark.parametrize("name", FILES)
def test_a_metric_needs_no_folder_of_its_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "file/metrics"))  # cannot be created
    predictions, references = (list(column) for column in zip(*SAMPLES[name][0], strict=True))
    figures = load_metric(name).module.compute(predictions=predictions, references=references)
    assert figures == compute(name, SAMPLES[name][0])
