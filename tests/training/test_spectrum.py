from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.structure.linear import StackedLinear
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.spec import Encoder
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_record, save_record
from rosa_bench.runs.resolve import ResolvedRun, resolve
from rosa_bench.runs.run import run
from rosa_bench.training.spectrum import numeric_rank, reported_ranks, spectrum, weights

RANK, EPOCHS = 2, 3
ROUNDED = 6e-5  # five digits are kept
TINY = (
    "task=grammar", "model=tiny_roberta", "device=cpu", f"epochs={EPOCHS}", "limit_train=40", "limit_eval=16",
    "batch_size=8", "max_length=32", f"rank={RANK}", "lr=3e-3", "record_spectrum=true", "optimizer.weight_decay=0",
)  # fmt: skip


@pytest.fixture
def make_setup(compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Prepare a tiny run in an empty folder: ``make_setup("method=lora")``."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: resolve(compose(*TINY, *overrides), {})


def found_ranks(record: RunRecord) -> set[int]:
    return {weight.rank for weight in record.spectrum.weights.values()}


def updates(resolved: ResolvedRun) -> Iterator[tuple[str, Tensor]]:
    """Return W_T - W_0 of each attention weight by name, from the saved model and a newly initialised one."""
    assert isinstance(resolved.config.model, Encoder)
    torch.manual_seed(resolved.config.seed)
    before = load_encoder(resolved.config.model, resolved.source, num_outputs=2).model.state_dict()
    after = load_file(resolved.saved_model / "model.safetensors")
    for name in after:
        if "attention" in name and name.endswith("weight") and "LayerNorm" not in name:
            yield name.removesuffix(".weight"), after[name].double() - before[name].double()


# The spectrum of a run


@pytest.mark.parametrize("method", ["ft", "lora", "rosa", "ia3"])
def test_a_record_has_the_singular_values_of_the_saved_models_update(make_setup: Any, method: str) -> None:
    resolved = make_setup(
        f"method={method}", "epochs=1", "save_model=true"
    )  # one epoch, so the saved model is the last one
    record = run(resolved)
    assert load_record(resolved.record_path) == record
    assert record.time_s["spectrum"] > 0
    summary = record.spectrum.weights
    expected = dict(updates(resolved))
    assert summary.keys() == expected.keys()
    assert len(summary) == 8  # four per layer
    for name, update in expected.items():
        values = np.linalg.svd(update.numpy(), compute_uv=False)
        sums = np.cumsum(values)[np.array(record.spectrum.ranks) - 1]
        np.testing.assert_allclose(summary[name].sums, sums, rtol=ROUNDED, atol=1e-6)
        assert summary[name].sum == pytest.approx(values.sum(), rel=ROUNDED, abs=1e-6)
        assert summary[name].norm == pytest.approx(np.linalg.norm(update.numpy()), rel=ROUNDED, abs=1e-6)


def test_the_update_of_lora_has_at_most_its_rank(make_setup: Any) -> None:
    assert found_ranks(run(make_setup("method=lora"))) == {RANK}


@pytest.mark.parametrize(("every", "resamples"), [(0, 0), (2, 1), (1, 2)])
def test_the_update_of_rosa_grows_with_its_resamples(make_setup: Any, every: int, resamples: int) -> None:
    """Each span removes a product of rank r and adds another, so the rank grows by 2 r, not r."""
    ranks = found_ranks(run(make_setup("method=rosa", f"method.resample_every={every}", "lr=1e-2")))
    assert max(ranks) <= 2 * RANK * (resamples + 1)
    assert min(ranks) > 2 * RANK * resamples
    if resamples:
        assert min(ranks) > (resamples + 1) * RANK > RANK


def test_full_fine_tuning_moves_a_weight_in_more_directions_than_either(make_setup: Any) -> None:
    ranks = found_ranks(run(make_setup("method=ft")))
    assert min(ranks) > 2 * RANK * EPOCHS


def test_frozen_weights_have_no_update(make_setup: Any) -> None:
    record = run(make_setup("method=bitfit"))
    assert all(weight.rank == weight.sum == weight.norm == 0 for weight in record.spectrum.weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "fair"])
def test_the_spectrum_is_of_the_last_epoch_and_changes_no_score(make_setup: Any, protocol: str) -> None:
    settings = ("method=rosa", "method.resample_every=1", f"protocol={protocol}")
    record = run(make_setup(*settings))
    saving = run(make_setup(*settings, "save_model=true"))
    plain = run(make_setup(*settings, "record_spectrum=false"))
    assert record.id == saving.id == plain.id
    assert not plain.spectrum
    assert record.spectrum == saving.spectrum
    assert record.spectrum
    for key in ("selected", "last", "selection_score"):
        assert getattr(record, key) == getattr(plain, key)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rosa", "ft"])
def test_a_resumed_run_has_the_spectrum_of_an_uninterrupted_one(make_setup: Any, at_step: Any, method: str) -> None:
    settings = (f"method={method}", *(["method.resample_every=1"] if method == "rosa" else []), "checkpoint_s=0")
    alone = run(make_setup(*settings, "results_dir=alone", "output_dir=alone"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # in the third epoch, when the spectrum may not yet have been requested
        run(make_setup(*settings, "record_spectrum=false"), [at_step(12, interrupt)])
    assert run(make_setup(*settings)).spectrum == alone.spectrum


def test_a_stack_has_the_spectrum_of_each_of_its_weights(make_setup: Any) -> None:
    small = ("task=synthetic", "model=mlp1", "task.replicates=3", "task.train_rows=64", "task.validation_rows=16")
    record = run(make_setup(*small, "method=lora"))
    assert list(record.spectrum.weights) == [f"layers.0[{number}]" for number in range(3)]
    assert found_ranks(record) == {RANK}


# The spectrum of two weights


def test_all_ranks_of_small_weights_and_few_of_large_ones_are_reported() -> None:
    assert reported_ranks(1) == [1]
    assert reported_ranks(32) == list(range(1, 33))
    for largest in (33, 40, 64, 768, 1024):
        ranks = reported_ranks(largest)
        assert ranks[:32] == list(range(1, 33))
        assert ranks == sorted(set(ranks))
        assert ranks[-1] == largest
        assert len(ranks) <= 64


def test_weights_of_different_sizes_share_the_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    before = {name: torch.zeros(shape) for name, shape in {"wide": (100, 300), "small": (40, 10)}.items()}
    after = {name: torch.randn(weight.shape, generator=generator) for name, weight in before.items()}
    summary = spectrum(before, after)
    for name, weight in after.items():
        values = np.linalg.svd(weight.double().numpy(), compute_uv=False)
        ranks = [rank for rank in summary["ranks"] if rank <= len(values)]
        np.testing.assert_allclose(
            summary["weights"][name]["sums"], np.cumsum(values)[np.array(ranks) - 1], rtol=ROUNDED
        )
        assert summary["weights"][name]["rank"] == len(values)
    assert summary["ranks"][-1] == 100


@pytest.mark.parametrize("rank", [0, 1, 5, 31])
def test_the_numeric_rank_ignores_rounding(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 96, generator=generator)
    moved = weight + torch.randn(64, rank, generator=generator) @ torch.randn(rank, 96, generator=generator) * 1e-2
    values = torch.linalg.svdvals(moved.double() - weight.double())
    assert numeric_rank(values, moved) == rank


def test_a_singular_value_counts_from_epsilon_times_the_norm_of_the_merged_weight() -> None:
    weight = torch.full((3, 4), 2.0)
    least = 2.0**-23 * 48**0.5
    assert numeric_rank(torch.tensor([1.01 * least, 0.99 * least]), weight) == 1
    one, merged = torch.zeros(2, 2), torch.diag(torch.tensor([1.0, 1e-9]))
    assert spectrum({"w": one}, {"w": merged})["weights"]["w"]["rank"] == 1


def test_an_update_of_bf16_weights_is_exact() -> None:
    before, after = (torch.full((1, 1), value, dtype=torch.bfloat16) for value in (-3.0, 256.0))
    summary = spectrum({"w": before}, {"w": after})["weights"]["w"]
    assert (summary["norm"], summary["norm_before"]) == (259, 3)  # 259 is no number of bf16


def test_a_record_stays_small_for_a_large_model(tmp_path: Path, make_record: Callable[..., RunRecord]) -> None:
    """Use 48 weights of 768 x 768, as in RoBERTa-base, copied from one to save time."""
    generator = torch.Generator().manual_seed(0)
    one = spectrum({"w": torch.zeros(768, 768)}, {"w": torch.randn(768, 768, generator=generator)})
    many = {f"roberta.encoder.layer.{number}.attention.self.query": one["weights"]["w"] for number in range(48)}
    sizes = [
        save_record(make_record(id=name, spectrum=summary), tmp_path).stat().st_size
        for name, summary in {"without": {}, "with": {**one, "weights": many}}.items()
    ]
    assert sizes[1] - sizes[0] < 100_000


def test_weights_are_copies() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), StackedLinear(torch.ones(2, 3, 3)))
    kept = weights(layer, ["0", "1"])
    before = {name: tensor.clone() for name, tensor in kept.items()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1)
    assert all(torch.equal(kept[name], before[name]) for name in kept)
