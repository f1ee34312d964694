"""Runs on weights in 8 and 4 bits with the fast forms of a step, on a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.storage.quantised import KINDS
from rosa_bench.runs.resolve import resolve
from rosa_bench.runs.run import run

pytest.importorskip("bitsandbytes")
TINY = ("task=new_language", "model=tiny_llama", "protocol=fair", "rank=2", "epochs=2", "batch_size=8", "max_length=32")
METHODS = {
    "lora": ("method=lora", "lr=1e-2"),
    "rosa": ("method=rosa", "lr=1e-2", "method.resample_every=1"),
}


@pytest.fixture
def losses(compose: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., list[float]]:
    """``losses("place", "method=lora")``: the training losses of a tiny run's epochs."""

    def of(place: str, *overrides: str) -> list[float]:
        where = (f"results_dir='{tmp_path / place / 'results'}'", f"output_dir='{tmp_path / place / 'outputs'}'")
        record = run(resolve(compose(*TINY, *overrides, *where), {}))
        return [epoch.train_loss for epoch in record.scores.epochs]

    return of


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_captured_and_compiled_steps_train_as_eager_ones(
    losses: Callable[..., list[float]], kind: str, method: str
) -> None:
    common = ("device=cuda", "limit_train=200", f"base_dtype={kind}", *METHODS[method])
    eager = losses("eager", *common, "cuda_graphs=never", "compile=none")
    assert eager[1] < eager[0]
    assert losses("captured", *common, "cuda_graphs=always", "compile=none") == pytest.approx(eager, rel=1e-3)
    assert losses("compiled", *common, "cuda_graphs=always", "compile=default") == pytest.approx(eager, rel=1e-2)
