import random

import numpy as np
import torch
from transformers import set_seed as set_seed_of_transformers

from rosa_bench.system.seeds import SEEDS, generator, seed_of, set_seed


def test_streams_that_runs_were_made_with_keep_their_values() -> None:
    for seed in (0, 1, 7):
        for number in (0, 3, 1000):
            assert (
                seed_of(seed, "epoch order", number) == seed_of(seed, "subspace", number) == 1_000_003 * seed + number
            )
        assert seed_of(seed, "rows") == seed
        assert seed_of(seed, "regression") == 982_451_653 * (seed + 1)
    assert len(SEEDS) == 4


def test_other_streams_differ_by_name_seed_and_number() -> None:
    drawn = {seed_of(seed, name, number) for name in ("blocks", "prompt") for seed in range(5) for number in range(50)}
    assert len(drawn) == 2 * 5 * 50
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_a_generator_is_new_each_time_and_on_the_cpu() -> None:
    first, again = (torch.rand(3, generator=generator(0, "blocks", 2)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.rand(3, generator=generator(0, "blocks", 3)))
    expected = torch.randperm(9, generator=torch.Generator().manual_seed(1_000_003 * 2 + 5))
    assert torch.equal(torch.randperm(9, generator=generator(2, "epoch order", 5)), expected)


def test_global_generators_are_seeded_as_by_transformers() -> None:
    states = []
    for seeding in (set_seed, set_seed_of_transformers):
        set_seed(1)
        seeding(123)
        states.append((random.random(), np.random.rand(), torch.rand(2).tolist()))
    assert states[0] == states[1]
