import hashlib
import math

import numpy as np
import pytest
from scipy.stats import entropy

from rosa_bench.data.generators.markov import MarkovSource
from rosa_bench.system.errors import UserError

SOURCES = [(2, 0.5, 0), (3, 0.1, 1), (5, 1.0, 2), (12, 0.1, 3)]


def by_transitions(transitions: np.ndarray) -> MarkovSource:
    source = MarkovSource(len(transitions), 1.0, 0)
    source.transitions = transitions
    return source


def as_first_order(source: MarkovSource) -> np.ndarray:
    """The same source as a chain of pairs, (pairs, pairs): (a, b) goes to (b, c)."""
    count = source.symbols
    matrix = np.zeros((count * count, count * count))
    for a in range(count):
        for b in range(count):
            for c in range(count):
                matrix[a * count + b, b * count + c] += source.transitions[a, b, c]
    return matrix


@pytest.mark.parametrize("settings", SOURCES)
def test_the_entropy_is_that_of_the_chain_of_pairs(settings: tuple[int, float, int]) -> None:
    source = MarkovSource(*settings)
    matrix = as_first_order(source)
    values, vectors = np.linalg.eig(matrix.T)
    stationary = np.real(vectors[:, np.argmin(abs(values - 1))])
    stationary /= stationary.sum()
    np.testing.assert_allclose(source.stationary.ravel(), stationary, atol=1e-10)
    np.testing.assert_allclose(source.entropy, stationary @ entropy(matrix, axis=1), rtol=1e-9)


@pytest.mark.parametrize("settings", SOURCES)
def test_a_long_text_has_the_stationary_pairs_and_costs_the_entropy(settings: tuple[int, float, int]) -> None:
    source = MarkovSource(*settings)
    text = source.text(200_000, "test")
    pairs = np.zeros((source.symbols, source.symbols))
    np.add.at(pairs, (text[:-1], text[1:]), 1 / (len(text) - 1))
    assert abs(pairs - source.stationary).sum() < 0.06
    assert source.losses(text).mean() == pytest.approx(source.entropy, abs=0.02)


def test_the_next_symbol_has_the_probabilities_of_its_pair() -> None:
    source = MarkovSource(3, 1.0, 4)
    text = source.text(100_000, "test")
    counts = np.zeros((3, 3, 3))
    np.add.at(counts, (text[:-2], text[1:-1], text[2:]), 1)
    np.testing.assert_allclose(counts / counts.sum(-1, keepdims=True), source.transitions, atol=0.02)


def test_sources_with_known_entropy() -> None:
    fair = by_transitions(np.full((4, 4, 4), 0.25))
    assert fair.entropy == pytest.approx(math.log(4))
    cycle = np.zeros((3, 3, 3))
    for before in range(3):
        for last in range(3):
            cycle[before, last, (last + 1) % 3] = 1  # periodic, and without any chance
    assert by_transitions(cycle).entropy == 0
    text = by_transitions(cycle).text(9, "test")
    assert ((text[1:] - text[:-1]) % 3 == 1).all()


def test_a_source_whose_pairs_come_back_every_second_step_has_its_stationary_distribution() -> None:
    alternating = np.zeros((2, 2, 2))
    alternating[0, 0, 1] = alternating[0, 1, 0] = alternating[1, 0, 1] = 1
    alternating[1, 1] = 0.5  # more leaves for (1, 0) in odd steps, and that difference never ends by itself
    np.testing.assert_allclose(by_transitions(alternating).stationary, [[0, 0.5], [0.5, 0]], atol=1e-9)


def test_rounded_probabilities_give_no_symbol_beyond_the_last() -> None:
    source = MarkovSource(3, 1.0, 0)
    _ = source.stationary
    source.transitions = source.transitions * 0.9  # as if rounding had taken a tenth
    assert source.text(1000, "test").max() == 2


def test_a_source_that_never_mixes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rosa_bench.data.generators.markov.MOST_STEPS", 1000)
    stuck = np.zeros((2, 2, 2))
    stuck[:, 0], stuck[:, 1] = (1 - 1e-9, 1e-9), (3e-9, 1 - 3e-9)
    with pytest.raises(UserError, match="concentration"):
        _ = by_transitions(stuck).entropy


def test_rows_are_probabilities_and_small_concentrations_are_sharp() -> None:
    for concentration in (0.05, 0.1, 1.0, 1000.0):
        source = MarkovSource(8, concentration, 0)
        np.testing.assert_allclose(source.transitions.sum(-1), 1)
        assert (source.transitions >= 0).all()
    found = [MarkovSource(8, concentration, 0).entropy for concentration in (0.05, 0.3, 3.0, 1000.0)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(math.log(8), abs=1e-3)


def test_a_source_depends_on_its_seed_and_texts_on_their_name() -> None:
    texts = [MarkovSource(8, 0.3, seed).text(500, name).tolist() for seed in (0, 1) for name in ("train", "validation")]
    assert len({tuple(text) for text in texts}) == 4
    assert MarkovSource(8, 0.3, 0).text(500, "train").tolist() == texts[0]
    longer = MarkovSource(8, 0.3, 0).text(700, "train").tolist()
    assert longer[:500] == texts[0]


def test_the_language_is_the_same_everywhere() -> None:
    text = MarkovSource(16, 0.1, 0).text(2000, "train")
    assert hashlib.sha256(text.astype("<i8").tobytes()).hexdigest()[:16] == "90548a802542f159"
