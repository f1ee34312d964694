"""Benchmarks and studies run at tiny sizes, and figures with known values are checked."""

import gzip
import hashlib
import json
import math
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from scipy import stats
from scipy.special import stdtr
from torch import nn

from rosa_bench.api import compose
from rosa_bench.config.composing.compose import composing
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.cells.differences import noncentrality, stratified
from rosa_bench.runs.run import recipe
from rosa_bench.system.errors import UserError

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
Called = Callable[..., tuple[int, str, str]]
ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
DECAY = ("task=grammar", "model=tiny_roberta", "method=rosa", "epochs=4", "lr=0.1", "optimizer.warmup_steps=10")
# Fraction of a factor left after 100 steps: warm-up over 10 steps to lr=0.1, decay to 0, weight decay 0.1.
LEFT = math.prod(1 - 0.1 * 0.1 * (step / 10 if step < 10 else (100 - step) / 90) for step in range(100))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Make scripts importable, as when one is run from the root of a clone."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    yield import_module("scripts.reporting")


PROGRAMS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "scripts").rglob("*.py"))
    if "\nif __name__ ==" in path.read_text(encoding="utf-8")
]


@pytest.fixture
def called(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """``called("scripts.benchmarks.step", "--help")``: the exit status, and what was printed and complained about."""

    def call(name: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [name, *words])
        status: Any = 0
        try:
            runpy.run_path(str(ROOT.joinpath(*name.split(".")).with_suffix(".py")), run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        printed, complaint = capsys.readouterr()
        return status, printed, complaint

    return call


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_script_prints_its_usage_and_refuses_words_it_does_not_know(name: str, called: Called) -> None:
    status, printed, _ = called(name, "--help")
    assert status == 0
    assert printed.strip() == (import_module(name).__doc__ or "").strip()
    assert f"python -m {name}" in printed
    for words in (["--nonsense"], ["no such word"] if "data." not in name else ["a", "no such folder"]):
        status, printed, complaint = called(name, *words)
        assert (status, printed) == (2, "")
        assert complaint.count("\n") == 1
        assert "--help shows the usage" in complaint


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        ("benchmarks.decoder_step", ". soon", "soon is not a number"),
        ("benchmarks.sizes", ". 9 (", "pattern=( is not a regular expression"),
        ("benchmarks.step", ". fastest", "word=fastest is not known; choose one of: none, default, max"),
        ("benchmarks.several_gpus", ". 9 recomputd", "did you mean recomputed?"),
        ("benchmarks.memory_savers", ". 9 lora rosaa", "did you mean rosa?"),
        ("benchmarks.memory_savers", ". 9 lora,rnk=2", "did you mean rank?"),
        ("benchmarks.resample", ". .", ". is one word too many"),
        ("studies.kill", "1 0 sweeps", "did you mean sweep?"),
        ("studies.kill", "1.5", "1.5 is not a whole number"),
        ("studies.capacity", "", "name one or more of: tiny"),
        ("studies.decay", "tsk=cola", "did you mean task?"),
        ("studies.choose", "mak", "write make FOLDER"),
        ("data.manpages_de", "", "too few words"),
    ],
)
def test_words_of_scripts_are_checked(name: str, words: str, complaint: str, called: Called) -> None:
    status, _, said = called(f"scripts.{name}", *words.split())
    assert status == 2
    assert complaint in said


def test_words_of_scripts_become_values(script: ModuleType, tmp_path: Path) -> None:
    arguments = import_module("scripts.arguments")
    kinds = (arguments.existing_folder, arguments.number, arguments.whole_number)
    assert arguments.read([str(tmp_path), "1.5"], *kinds) == [tmp_path, 1.5]
    assert arguments.read([str(tmp_path), "1.5", "2", "a=b"], *kinds, rest=arguments.setting)[2:] == [2, "a=b"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
    ],
)
def test_device_names_are_shortened_for_file_names(script: ModuleType, name: str, expected: str) -> None:
    assert script.short_name(torch.device("cuda"), name) == expected
    assert script.short_name(CPU, "Some Processor") == "cpu"


def test_resample_benchmark_reports_times_and_their_ratio(script: ModuleType) -> None:
    resample = import_module("scripts.benchmarks.resample")
    figures = resample.cost(6, 16, CPU, repeats=1, timed=2)
    assert set(figures) == {"ours_s", "svd_loop_s", "speedup"}
    assert figures["speedup"] == pytest.approx(figures["svd_loop_s"] / figures["ours_s"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")
def test_step_benchmark_times_every_variant(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    step = import_module("scripts.benchmarks.step")
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    monkeypatch.setattr(step, "SMALL", tiny)
    monkeypatch.setattr(step, "REPEATS", 1)
    figures = step.steps(2, 4, ("none",), CPU)
    kinds = ("ft", "peft_lora", "two_branches", "lora", "rosa")
    assert {f"{kind}, eager, ms" for kind in kinds} <= set(figures)
    assert figures["ft, eager, to FT eager"] == figures["peft_lora, eager, to PEFT LoRA eager"] == 1


def test_sizes_benchmark_measures_a_step_and_a_draw(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = import_module("scripts.benchmarks.sizes")
    tiny = {"vocab_size": 2000, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    monkeypatch.setattr(sizes, "SMALL", {**sizes.SMALL, **tiny})
    monkeypatch.setattr(sizes, "LENGTH", 4)
    found = sizes.variant("ROSA", "bfloat16", CPU)
    assert found["fits"] == 1
    assert found["step_ms"] > 0
    assert found["resample_s"] > 0
    model, _ = sizes.attached(sizes.method_of("ROSA"), "float32", CPU)
    assert len(low_rank_layers(model)) == 7  # all of a block, as the text says
    assert sizes.shape_figures(torch.device("cuda"))["weights_M"] == pytest.approx(6738.4, abs=0.1)  # Llama-2-7B's


def test_the_page_counts_the_layers_that_the_benchmark_of_sizes_adapts(script: ModuleType) -> None:
    sizes = import_module("scripts.benchmarks.sizes")
    model = sizes.decoder(torch.device("meta"), chunked=False, shape=sizes.LLAMA)
    shapes = [model.get_parameter(f"{name}.weight").shape for name in sizes.method_of("ROSA").target_names(model)]
    factors, weights = (4 * sizes.RANK * sum(map(sum, shapes)), 2 * sum(map(math.prod, shapes)))  # bytes
    page = " ".join((ROOT / "docs" / "performance.md").read_text(encoding="utf-8").split())
    assert (
        f"r = {sizes.RANK} on all {len(shapes)} linear layers of the blocks ({factors / 1e6:.0f} MB of factors)" in page
    )
    assert f"A draw computes {len(shapes)} decompositions" in page
    assert f"its bfloat16 copies would take {weights / 1e9:.1f} GB here" in page


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")
@pytest.mark.parametrize("name", ["step", "decoder_step"])
def test_hf_peft_adapts_the_layers_that_we_adapt(script: ModuleType, name: str) -> None:
    benchmark = import_module(f"scripts.benchmarks.{name}")
    ours = [name for name, one in benchmark.ours("lora", CPU).named_modules() if isinstance(one, LowRankLinear)]
    theirs = benchmark.peft_lora(CPU).targeted_module_names
    assert sorted(theirs) == sorted(ours)


@pytest.mark.parametrize(("model", "of_a_block"), [("roberta", 4), ("llama", 7)])
def test_rosa_adapts_attention_of_roberta_and_all_layers_of_the_llama(
    script: ModuleType, model: str, of_a_block: int
) -> None:
    several = import_module("scripts.benchmarks.several_gpus")
    _, adapted = several.ready(several.Variant(model, "rosa", "none"), CPU)
    assert len(low_rank_layers(adapted)) == of_a_block * several.TINY_LLAMA["num_hidden_layers"]


def test_a_saver_that_is_refused_is_named_and_the_other_rows_are_measured(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savers = import_module("scripts.benchmarks.memory_savers")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    savers.main(tmp_path, 60, "rosa,rank=2")
    [path] = tmp_path.glob("memory_savers_cpu_*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    plain, saved, offloaded = (f"2 x 16, rosa,rank=2, {saver or 'none'}" for saver in savers.SAVERS)
    assert list(report["figures"]) == [plain, saved]
    assert report["figures"][saved]["steps"] == savers.ROUNDS * (savers.STEPS - savers.WARM_UPS)
    assert "offload=layers moves weights out of a GPU's memory" in report["not_measured"][offloaded]


def test_rows_of_savers_that_would_begin_too_late_are_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savers = import_module("scripts.benchmarks.memory_savers")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    savers.main(tmp_path, -1, "ft")
    [path] = tmp_path.glob("memory_savers_*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["figures"], len(report["not_measured"])) == ({}, len(savers.SAVERS) * len(savers.SHAPES["cpu"]))


@pytest.mark.parametrize("method", ["lora", "rosa,method.targets=all-linear", "ft", "galore,method.update_every=2"])
def test_savers_leave_the_losses_of_a_falling_loss_as_they_are(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Layers are loaded from the CPU's memory to the CPU, which a run refuses because it saves nothing."""
    savers, reached = import_module("scripts.benchmarks.memory_savers"), []
    resolve, offloaded = savers.api.resolve, import_module("rosa_bench.runs.run").offloaded
    monkeypatch.setattr(
        savers.api, "resolve", lambda config: replace(resolve(replace(config, offload=None)), config=config)
    )
    monkeypatch.setattr("rosa_bench.runs.run.offloaded", lambda *given: reached.append(True) or offloaded(*given))
    rows = [savers.Row(2, 16, method, saver) for saver in savers.SAVERS]
    plain, recomputed, loaded = (savers.attempt(row, CPU, str(tmp_path)) for row in rows)
    assert reached
    assert plain.losses[-1] < plain.losses[0] - 0.01
    assert recomputed.losses == pytest.approx(plain.losses, rel=1e-6)
    assert loaded.losses == pytest.approx(plain.losses, rel=1e-6)


def test_ratios_of_savers_are_to_the_same_method_and_to_full_fine_tuning(script: ModuleType) -> None:
    savers = import_module("scripts.benchmarks.memory_savers")
    row = savers.Row(8, 512, "rosa", savers.SAVERS[1])
    ft, rosa = (row._replace(method=method, saver="") for method in ("ft", "rosa"))
    made = partial(savers.Measured, attached_bytes=0, precision="bfloat16")
    found = {
        ft: made(steps_s=[1.0, 4.0, 2.0], losses=[2.0], peak_bytes=8 << 20),
        rosa: made(steps_s=[1.0], losses=[2.0], peak_bytes=4 << 20),
        row: made(steps_s=[3.0], losses=[2.1], peak_bytes=2 << 20),
    }
    assert savers.figures_of(row, found) == pytest.approx({
        "MiB": 2, "ms": 3000, "attached_MiB": 0, "steps": 1, "MiB, to none": 0.5, "ms, to none": 3, "MiB, to ft": 0.25,
        "ms, to ft": 1.5, "loss_difference": 0.05,
    })  # fmt: skip
    assert "THE LOSSES DIFFER" in savers.complaint(row, found)
    assert savers.complaint(rosa, found) == ""


@pytest.mark.parametrize(("seeds", "spreads"), [([3], [1.0]), ([2], [0.1])])
def test_the_test_of_one_task_is_exact_at_any_number_of_seeds(
    script: ModuleType, seeds: list[int], spreads: list[float]
) -> None:
    """Student's: 5 % of the differences are significant at 5 %. With 400,000, the standard error is 0.7 % of that."""
    few_seeds = import_module("scripts.studies.few_seeds")
    found = few_seeds.excess(seeds, spreads, np.random.default_rng(1), draws=400_000)
    assert found["at 0.05"] == pytest.approx(1, abs=0.03)


def test_one_task_that_varies_most_makes_the_test_with_few_seeds_wrong(script: ModuleType) -> None:
    few_seeds = import_module("scripts.studies.few_seeds")
    level = f"at {few_seeds.LEVELS[1]:.2g}"
    uneven, even = (
        few_seeds.excess([3, 3], [spread, 1.0], np.random.default_rng(1), draws=400_000)[level]
        for spread in (20.0, 1.0)
    )
    assert uneven > 2
    assert even < 1


def test_the_seeds_needed_are_those_of_the_noncentral_t(script: ModuleType) -> None:
    """Of one task, for which they are exact."""
    few_seeds = import_module("scripts.studies.few_seeds")
    found = few_seeds.seeds_needed(2.0, [1.5], np.random.default_rng(0), draws=10_000)
    assert found["at 0.05"] == next(n for n in range(2, 50) if noncentrality(n - 1) * 1.5 * math.sqrt(2 / n) < 2)


def test_the_study_of_many_methods_tests_as_compare_does(script: ModuleType) -> None:
    many_methods, rng = import_module("scripts.studies.many_methods"), np.random.default_rng(0)
    scores = [spread * rng.standard_normal((1, 5, count)) for spread, count in ((1, 2), (3, 3), (9, 4))]
    p = many_methods.tests(scores, rng)["today"](many_methods.differences(scores))
    by_seed = [[dict(enumerate(one)) for one in task[0].tolist()] for task in scores]
    expected = [stratified([(task[method], task[0]) for task in by_seed]) for method in range(1, 5)]
    assert p[0].tolist() == pytest.approx([one and one.p for one in expected])


@pytest.mark.parametrize(("df", "prior_df"), [(1, 3.0), (2, 5.0)])
def test_priors_of_variances_are_those_of_maximum_likelihood(script: ModuleType, df: int, prior_df: float) -> None:
    """SciPy fits the distribution F. One step of the grid of `uncertain` is 1.4 degrees of freedom per degree."""
    many_methods, rng = import_module("scripts.studies.many_methods"), np.random.default_rng(0)
    variances = 2 * rng.f(df, prior_df, size=8000)
    _, expected_df, _, scale = stats.f.fit(variances, fdfn=df, floc=0)
    for prior in (many_methods.moments, many_methods.robust, partial(many_methods.uncertain, rng=rng)):
        found = [np.median(one) for one in prior(variances[None], df)]
        assert found == [pytest.approx(expected_df, rel=0.3), pytest.approx(scale, rel=0.15)]


def test_a_few_large_variances_decide_all_priors_but_the_robust_one(script: ModuleType) -> None:
    many_methods = import_module("scripts.studies.many_methods")
    variances = np.random.default_rng(0).f(2, 10, size=(1, 400))
    variances[:, :16] *= 1e4
    assert many_methods.moments(variances, 2)[0].item() < 2
    df, _ = many_methods.robust(variances, 2)
    assert df[0, :16].max() < 1
    assert np.median(df) > 4


def test_the_sum_of_one_students_t_is_students(script: ModuleType) -> None:
    many_methods, mean = import_module("scripts.studies.many_methods"), np.array([[0.0, 0.5, -1.0, 3.0]])
    terms = [(np.full((1, 4, 1), 0.25), np.full((1, 4, 1), 3.0))]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(many_methods, "MIXED", 100_000)
        p = many_methods.by_mixture(terms, 1, np.random.default_rng(0))(mean)
    assert p == pytest.approx(2 * stdtr(3, -np.abs(mean) / 0.5), rel=0.03)


def test_moderation_is_wrong_about_one_method_that_varies_most(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_methods, rng = import_module("scripts.studies.many_methods"), np.random.default_rng(0)
    monkeypatch.setattr(many_methods, "BATCH", 60)
    monkeypatch.setattr(many_methods, "MIXED", 16)
    real = [rng.standard_normal((1, 37, count)) for count in (2, 3, 2)]
    scene = many_methods.scenes(real)["one method varies 10 times as much, its own rates"]
    found = many_methods.rates(scene, [2, 3, 2], rng, draws=60)
    assert found["moderated"]["at 0.05"] > 4 > found["Welch"]["at 0.05"]
    assert found["moderated"]["finds 3"] > found["moderated"]["finds 1"]


class Linear(torch.nn.Module):
    """A head that is linear in the first token's vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features[:, 0])


def test_a_frozen_linear_head_has_the_closed_form_bounds(script: ModuleType, tiny_model: Callable[..., Any]) -> None:
    """For a linear head, the bound is the length of the centred slope, reached at the far end of the ellipsoid."""
    frozen_head = import_module("scripts.studies.frozen_head")
    model = tiny_model("tiny_roberta", num_outputs=1)
    model.classifier = Linear(model.config.hidden_size)
    norm, head = frozen_head.last_norm(model), model.classifier.head
    torch.nn.init.normal_(head.weight, std=1e-3, generator=torch.Generator().manual_seed(1))
    assert norm is model.roberta.encoder.layer[-1].output.LayerNorm
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    slope = (norm.weight * head.weight[0]).detach()
    middle = (head.weight[0] @ norm.bias + head.bias[0]).item()
    length = ((slope - slope.mean()).norm() * len(slope) ** 0.5).item()
    found = frozen_head.bounds(model)
    assert found == pytest.approx({"least": middle - length, "greatest": middle + length}, rel=1e-3)


def test_collapse_study_watches_a_run_from_its_start(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    collapse = import_module("scripts.studies.collapse")
    monkeypatch.setattr(collapse, "EVERY", 2)
    monkeypatch.setattr(collapse, "STEPS", 4)
    monkeypatch.chdir(tmp_path)
    few = ["task=grammar", "model=tiny_roberta", "device=cpu", "batch_size=8", "limit_train=64", "limit_eval=32"]
    collapse.main(*few, "method=rosa", "rank=2", "lr=1e-2")
    [path] = (tmp_path / "results" / "benchmarks").glob("collapse_grammar-tiny_roberta-rosa-r2-*.json")
    seen = json.loads(path.read_text(encoding="utf-8"))["figures"]
    assert list(seen) == ["step 0", "step 2", "step 4"]
    start, end = seen["step 0"], seen["step 4"]
    assert start["update"] < 1e-6 < end["update"]  # factorising does not change the weights
    assert start["residual"] ** 2 + start["product"] ** 2 == pytest.approx(1, abs=0.01)  # its directions are orthogonal
    assert all(-1 <= figures["likeness"] <= 1 for figures in seen.values())


def test_equal_sentences_have_likeness_one(script: ModuleType, tiny_model: Callable[..., Any]) -> None:
    collapse = import_module("scripts.studies.collapse")
    model, tokens = tiny_model("tiny_bert"), torch.arange(5, 35).view(6, 5)
    assert collapse.likeness(model, {"input_ids": tokens}) < 0.999
    assert collapse.likeness(model, {"input_ids": tokens[:1].expand(6, -1)}) == pytest.approx(1)


@pytest.mark.parametrize("select", ["top", "bottom"])
def test_decay_shrinks_the_chosen_directions_only(
    script: ModuleType, tiny_model: Callable[..., Any], select: str
) -> None:
    """Without resampling, the chosen share of the spectrum shrinks by the square of one factor's decay."""
    decay, model, rank = import_module("scripts.studies.decay"), tiny_model("tiny_roberta"), 3
    layers = [layer for name, layer in model.named_modules() if name.endswith(ATTENTION)]
    spectra = [torch.linalg.svdvals(layer.weight.detach().double()) for layer in layers]
    chosen = slice(0, rank) if select == "top" else slice(-rank, None)
    shares = [(spectrum[chosen].norm() / spectrum.norm()).item() for spectrum in spectra]
    config = compose([*DECAY, f"rank={rank}", f"method.select={select}", "method.resample_every=0"])
    found = decay.moved(model, config.method, recipe(config, 25), 25)
    lost = 1 - LEFT**2
    assert found == pytest.approx({"mean": lost * sum(shares) / len(shares), "greatest": lost * max(shares)}, rel=1e-3)


@pytest.mark.parametrize("period", ["0", "1", "0.4"])
def test_decay_at_full_rank_does_not_depend_on_resampling(
    script: ModuleType, tiny_model: Callable[..., Any], period: str
) -> None:
    decay, model = import_module("scripts.studies.decay"), tiny_model("tiny_roberta")
    config = compose([*DECAY, f"rank={model.config.hidden_size}", f"method.resample_every={period}"])
    plan = recipe(config, 25)
    assert decay.kept(plan, range(100), 100) == pytest.approx(LEFT)
    found = decay.moved(model, config.method, plan, 25)
    assert found == pytest.approx({"mean": 1 - LEFT**2, "greatest": 1 - LEFT**2}, rel=1e-3)


def test_needed_operations_grow_with_the_trained_parameters(script: ModuleType) -> None:
    step = import_module("scripts.benchmarks.step")
    forward = 2 * 12 * (4 * 768**2 + 2 * 768 * 3072) * 32 * 16  # for the weights only
    rosa, full = (step.needed_operations(method, 32, 16) for method in ("rosa", "ft"))
    assert 2 * forward < rosa < 2.1 * forward  # gradients of inputs, but not of weights
    assert 3 * forward < full < 3.1 * forward


def test_energy_is_the_mean_square_along_the_triplets(script: ModuleType) -> None:
    """The singular vectors of a diagonal weight are the axes. The last one has the smallest value."""
    module = import_module("scripts.studies.input_energy")
    x = torch.tensor([[1.0, 0.0, 3.0], [-1.0, 2.0, 3.0]], dtype=torch.float64)
    inputs = module.Inputs(x.mean(0), x.mT @ x / len(x))
    found = module.energies(torch.diag(torch.tensor([3.0, 2.0, 1.0])), inputs, rank=1)
    mean = (1 + 2 + 9) / 3  # of the squares along each axis
    assert found == {
        "largest": pytest.approx({"energy": 1 / mean, "same for every token": 0}),
        "smallest": pytest.approx({"energy": 9 / mean, "same for every token": 1}),
        "all": pytest.approx({"energy": 1, "same for every token": (0 + 1 + 9) / 12}),
    }


def test_input_statistics_ignore_padding(script: ModuleType, tiny_model: Callable[..., Any]) -> None:
    module, model = import_module("scripts.studies.input_energy"), tiny_model("tiny_roberta")
    layers = {name: layer for name, layer in model.named_modules() if name.endswith("attention.self.query")}
    tokens = torch.arange(5, 35).view(6, 5)
    whole = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    padded = {
        name: nn.functional.pad(tensor, (0, 3), value=0 if "mask" in name else 1) for name, tensor in whole.items()
    }
    halves = [{name: tensor[rows] for name, tensor in padded.items()} for rows in (slice(2), slice(2, None))]
    expected, found = (module.inputs_of(model, layers, batches) for batches in ([whole], halves))
    assert found.keys() == expected.keys() == layers.keys()
    for name in layers:
        for kind in (0, 1):
            torch.testing.assert_close(found[name][kind], expected[name][kind], atol=1e-5, rtol=1e-5)


PAGE = r"""'\" t
.\" A comment
.TH LS 1 "Mai 2022" "coreutils\-9.1"
.de URL
.  ad l
\\$2
..
.SH ÜBERSICHT
\fBls\fP [\f(CWDatei\fP]
.TP
.B \-a
\(bu alle\&, auch
.Nm ls
\&.punkt\-Dateien
.br
.br
zeigt \(co
"""
TEXT = 'LS 1 "Mai 2022" "coreutils-9.1"\n\n\\\\$2\nÜBERSICHT\nls [CWDatei]\n\n-a\n* alle, auch\n\nzeigt'


def test_a_manual_page_becomes_its_text(script: ModuleType) -> None:
    assert import_module("scripts.data.manpages_de").plain(PAGE) == TEXT


def test_manual_pages_are_written_once_in_the_order_of_their_hashes(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("scripts.data.manpages_de")
    for number in range(45):  # five of them twice
        page = tmp_path / "man" / f"man{number % 8}" / f"p{number}.1.gz"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(gzip.compress(f".SH Seite\nNummer {number % 40}\n".encode()))
    module.main(tmp_path / "data", tmp_path / "man")
    files = {name: tmp_path / f"data/manpages_de/{name}.jsonl.gz" for name in ("train", "validation")}
    found = {
        name: [json.loads(line)["text"] for line in gzip.decompress(path.read_bytes()).splitlines()]
        for name, path in files.items()
    }
    both = found["validation"] + found["train"]
    assert {name: len(texts) for name, texts in found.items()} == {"train": 38, "validation": 2}
    assert sorted(both) == sorted(f"Seite\nNummer {number}" for number in range(40))
    hashes = [hashlib.sha256(text.encode()).digest() for text in both]
    assert hashes == sorted(hashes)
    files["train"].unlink()
    with pytest.raises(UserError, match="exists; remove it first"):
        module.main(tmp_path / "data", tmp_path / "man")
    assert not files["train"].exists()  # rows of two splits that were made apart could overlap
    monkeypatch.setattr(module, "INSTALLED", tmp_path / "man")
    monkeypatch.setattr(module, "OF_PACKAGE", tmp_path / "list")
    (tmp_path / "list").write_text(f"/.\n{tmp_path}/man/man3/p3.1.gz\n")
    assert module.pages(tmp_path / "man") == {"Seite\nNummer 3"}
    with pytest.raises(UserError, match="apt-get install manpages-de"):
        module.main(tmp_path / "other", tmp_path / "none")


@pytest.mark.slow
@pytest.mark.long
def test_killed_commands_end_like_undisturbed_ones() -> None:
    command = [sys.executable, "-m", "scripts.studies.kill", "4", "0", "classifier", "tables"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    [total] = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["all"]]
    assert (total[1], total[-1]) == ("4", "0")


def test_a_report_is_json_whatever_was_measured(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script.write_report("odd", {"a": {"loss": math.nan, "ms": 2.0}}, what="An odd one.\nMore.", device=CPU)
    [path] = (tmp_path / "results" / "benchmarks").glob("odd_cpu_*.json")
    report = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (report["what"], report["figures"]) == ("An odd one.", {"a": {"loss": None, "ms": 2.0}})


def test_a_choice_without_runs_cannot_be_compared(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = import_module("scripts.studies.choose")
    monkeypatch.setattr(study, "load_choice", lambda path: path if path.name == "begun.json" else None)
    with pytest.raises(UserError, match="does not exist"):
        study.compare(tmp_path / "choose" / "none.json", "sst2")
    with pytest.raises(UserError, match="has no run of the choice"):
        study.compare(tmp_path / "choose" / "begun.json", "sst2")


@pytest.mark.skipif(not (ROOT / "results" / "runs").exists(), reason="needs the committed records")
@pytest.mark.parametrize(("task", "said"), [("stsb", "its {} arms"), ("sst2", "of {} arms"), ("boolq", "of {} arms")])
def test_a_choice_is_compared_with_arms_of_todays_settings(
    script: ModuleType, tmp_path: Path, task: str, said: str
) -> None:
    study = import_module("scripts.studies.choose")
    shutil.copytree(ROOT / "results" / "runs" / task / "mpnet_base", tmp_path / "runs" / task / "mpnet_base")
    records = load_records(tmp_path)
    swept = study.sweep(records, task, "mpnet_base")
    periods = {run.setting("method.resample_every") for run in records if run.settings.method.name == "rosa"}
    assert any(arm.method == "rosa" for arm in swept) == (0 in periods)  # as `fair` has it: never
    assert said.format(len(swept)) in (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")


def test_a_report_names_its_module_and_not_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    reporting = import_module("scripts.reporting")
    monkeypatch.setattr(sys, "argv", ["/somewhere/scripts/benchmarks/step.py", "a folder"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("scripts.benchmarks.step", None))
    assert reporting.command() == "python -m scripts.benchmarks.step 'a folder'"


@pytest.mark.skipif(not (ROOT / "results" / "runs").exists(), reason="needs the committed records")
def test_every_committed_run_of_the_phone_book_has_its_command(script: ModuleType) -> None:
    capacity = import_module("scripts.studies.capacity")
    with composing() as composer:
        jobs = []
        for command in (command for study in capacity.STUDIES.values() for command in study()):
            sweep = composer.parser.parse_overrides(shlex.split(command))  # there is no preset to expand
            for job in BasicSweeper.split_arguments(sweep, max_batch_size=None)[0]:
                assert composer.settings(tuple(job))
                jobs.append({one.key_or_group: one.value() for one in map(composer.parsed, job)})
    runs = [run for run in load_records(ROOT / "results") if run.settings.task.name == "phonebook"]
    assert runs
    assert [run.id for run in runs if sum(is_run_of(job, run) for job in jobs) != 1] == []


GROUPS = ("task", "model", "method")


def is_run_of(job: Mapping[str, Any], run: RunRecord) -> bool:
    """Whether a run has every setting of a job, and no other that differs from its protocol."""
    settings = {"seed": 0, "task": "phonebook", "model": "smollm2_135m", **job}
    held = all(run.setting(f"{key}.name" if key in GROUPS else key) == value for key, value in settings.items())
    return held and run.deviations.keys() <= settings.keys()
