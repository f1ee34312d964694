"""Random generators by seed and stream: every random choice of a run is a function of its seed and of nothing else.

A stream is a named purpose, such as the order of an epoch. Streams that are not listed in `SEEDS` are independent of
each other and of everything else. The listed ones are older than this module and keep the values that they had, so that
earlier runs can be repeated. `epoch order` and `subspace` share their values: epoch n and the subspace drawn before
step n start from one state. With seed 0 the first of each also shares that of `rows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEEDS: dict[str, Callable[[int, int], int]] = {
    "epoch order": lambda seed, number: 1_000_003 * seed + number,
    "subspace": lambda seed, number: 1_000_003 * seed + number,
    "rows": lambda seed, _number: seed,  # the held-out split and limit_train
    "regression": lambda seed, _number: 982_451_653 * (seed + 1),  # a prime keeps these draws apart from the others
}


def seed_of(seed: int, stream: str, number: int = 0) -> int:
    """Return the seed of one generator of a stream, such as that of epoch ``number``."""
    if stream in SEEDS:
        return SEEDS[stream](seed, number)
    digest = hashlib.sha256(f"{stream}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits without a sign


def generator(seed: int, stream: str, number: int = 0) -> torch.Generator:
    """Return a new CPU generator for draw ``number`` of a named stream."""
    import torch  # here, so that importing this module is cheap

    return torch.Generator().manual_seed(seed_of(seed, stream, number))


def set_seed(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch: those of the CPU and of every device.

    The states are those of transformers' function of this name, which imports its trainer and PEFT.
    """
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
