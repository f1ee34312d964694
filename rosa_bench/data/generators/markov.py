"""A language drawn at random: a second-order Markov source, whose entropy rate is known exactly.

The next symbol depends on the two before it: ``P[a, b, c]`` is the probability of c after a, b. Each row ``P[a, b]`` is
drawn from a symmetric Dirichlet distribution. No model can have a lower expected loss than the entropy rate, and one
that knows P reaches it.
"""

from bisect import bisect_right
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import entr

from rosa_bench.system.errors import UserError
from rosa_bench.system.seeds import seed_of

MOST_STEPS = 100_000  # of the power iteration
TOLERANCE = 1e-14


class MarkovSource:
    """A second-order Markov source of ``symbols`` symbols, numbered from 0.

    It depends on ``seed`` alone: the same on every machine and in every version of NumPy, whose `RandomState` never
    changes. ``concentration`` is that of the Dirichlet distribution.
    """

    def __init__(self, symbols: int, concentration: float, seed: int):
        self.symbols, self.seed = symbols, seed
        drawn = self._random("transitions").dirichlet([concentration] * symbols, size=symbols * symbols)
        self.transitions: Float64[np.ndarray, "a b c"] = drawn.reshape(symbols, symbols, symbols)

    @cached_property
    def stationary(self) -> Float64[np.ndarray, "a b"]:
        """Probability of each pair of neighbouring symbols in a long text.

        Found by power iteration. A step is averaged with its result, so that a periodic source converges too. Raises
        `UserError` for a source that takes too long to forget how it began.
        """
        pairs = np.full((self.symbols, self.symbols), self.symbols**-2.0)
        for _ in range(MOST_STEPS):
            after = (pairs + np.einsum("ab,abc->bc", pairs, self.transitions)) / 2
            if np.abs(after - pairs).sum() < TOLERANCE:
                return after / after.sum()
            pairs = after
        raise UserError(
            "the language has parts between which it hardly moves; use a larger task.concentration or another "
            "task.source_seed"
        )

    @cached_property
    def entropy(self) -> float:
        """Entropy rate in nats per symbol: the entropy of each row of P, weighted by how often its pair occurs."""
        return float((self.stationary * entr(self.transitions).sum(-1)).sum())

    def text(self, length: int, name: str) -> Int64[np.ndarray, " length"]:
        """Draw a text of two symbols or more that starts from the stationary distribution.

        Texts with different names are independent.
        """
        random = self._random(name)
        pair = min(int(np.searchsorted(self.stationary.cumsum(), random.random_sample())), self.symbols**2 - 1)
        before, last = divmod(pair, self.symbols)
        steps = self.transitions.cumsum(-1)
        steps[..., -1] = 1.0  # whatever the sum was rounded to
        cumulative = steps.tolist()  # searching a list is many times faster than searching an array
        found = [before, last]
        for number in random.random_sample(length - 2).tolist():
            before, last = last, bisect_right(cumulative[before][last], number)
            found.append(last)
        return np.array(found)

    def losses(self, text: Int64[np.ndarray, "*rows length"]) -> Float64[np.ndarray, "*rows length-2"]:
        """Return the loss in nats of the best predictor, which knows P, for each symbol after the first two."""
        return -np.log(self.transitions[text[..., :-2], text[..., 1:-1], text[..., 2:]])

    def _random(self, name: str) -> np.random.RandomState:
        return np.random.RandomState(seed_of(self.seed, f"markov {name}") % 2**32)
