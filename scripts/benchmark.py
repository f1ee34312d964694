"""What the package costs: start-up, one layer, one training step, one resample, peak memory.

    python scripts/benchmark.py [results/benchmarks]

Prints a table and writes it as JSON. Machines are shared and noisy, so times are medians of interleaved repetitions and
what counts is their ratio in one run. Layers and steps are MiniLM-L6's shape (6 x 384), from random weights.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import hydra
import torch
from reporting import Figures, interleaved, write_report
from torch import nn
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, BertConfig

from rosa_bench.adapters import LowRankLinear
from rosa_bench.config import RunConfig, conf_folder, parse

REPEATS = 15
TOKENS, BATCH, LENGTH = 512, 32, 16  # a batch of CoLA: 32 sentences of about 16 tokens
RANK = 8
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main(folder: Path) -> None:
    """Run every benchmark, print and write the figures."""
    figures = {
        "start_up_s": start_up(),
        "layer_step": layer_step(),
        "training_step": training_step(),
        "resample": resample(),
        "peak_memory": peak_memory(),
    }
    write_report("cost", figures, folder=folder, what=__doc__, device=torch.device("cpu"))


def start_up() -> Figures:
    """Seconds until help is printed, and until a wrong setting is told."""
    command = [sys.executable, "-m", "rosa_bench.cli"]
    return interleaved(
        {
            "help": lambda: subprocess.run([*command, "--help"], capture_output=True, check=True),
            "configuration_error": lambda: subprocess.run([*command, "rank=0"], capture_output=True, check=False),
        },
        repeats=5,
    )


def layer_step() -> Figures:
    """Forward and backward of one layer: one matrix product of full size against the usual two branches."""
    plain = nn.Linear(384, 384).requires_grad_(False)
    layer = LowRankLinear(plain, RANK)
    nn.init.normal_(layer.a)
    nn.init.normal_(layer.b)
    x = torch.randn(TOKENS, 384, requires_grad=True)

    def two_branches() -> None:
        y = functional.linear(x, layer.residual, layer.bias) + functional.linear(functional.linear(x, layer.b), layer.a)
        y.sum().backward()

    times = interleaved(
        {"ours_s": lambda: layer(x).sum().backward(), "two_branches_s": two_branches}, repeats=20 * REPEATS
    )
    return {**times, "ratio": times["ours_s"] / times["two_branches_s"]}


def training_step() -> Figures:
    """Forward, backward and AdamW for each method, on one batch; ratios to LoRA's."""
    steps = {f"{name}_s": one_step(name) for name in ("ft", "lora", "rosa", "ia3")}
    times = interleaved(steps, repeats=REPEATS)
    ratios = {f"{name}_to_lora": times[f"{name}_s"] / times["lora_s"] for name in ("ft", "rosa", "ia3")}
    return {**times, **ratios}


def one_step(method: str) -> Callable[[], None]:
    """A training step of ``method`` on a fresh model."""
    model = encoder()
    settings(method).method.attach(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    batch = {"input_ids": torch.randint(1000, 30000, (BATCH, LENGTH)), "labels": torch.randint(2, (BATCH,))}

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def resample() -> Figures:
    """Seconds for one resample of all 24 attention matrices, and as many calls of torch.linalg.svd."""
    model, method = encoder(), settings("rosa").method
    method.attach(model)
    matrices = [torch.randn(384, 384) for _ in range(24)]
    times = interleaved(
        {
            "ours_s": lambda: method.resample(model, step=1),
            "svd_loop_s": lambda: [torch.linalg.svd(matrix) for matrix in matrices],
        },
        repeats=3,
    )
    return {**times, "speedup": times["svd_loop_s"] / times["ours_s"]}


def peak_memory() -> Figures:
    """Peak resident memory of whole runs, in bytes, medians of three, each in its own process; ratios to LoRA's."""
    peaks: dict[str, list[float]] = {"ft": [], "lora": [], "rosa": []}
    for _ in range(3):
        for method, found in peaks.items():
            found.append(peak_of_run(method))
    medians = {name: statistics.median(found) for name, found in peaks.items()}
    ratios = {f"{name}_to_lora": medians[name] / medians["lora"] for name in ("ft", "rosa")}
    return {**{f"{name}_bytes": value for name, value in medians.items()}, **ratios}


def peak_of_run(method: str) -> float:
    """The highest peak of any phase of a short run, ROSA's resampling included."""
    shape = [f"model.random.{key}={value}" for key, value in {**SHAPE, "vocab_size": 30522}.items()]
    resampling = ["method.resample_every=1"] if method == "rosa" else []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rosa_bench.cli", "task=grammar", "model=tiny_bert", *shape]
        command += [f"method={method}", *resampling, "epochs=3", "limit_train=320", "limit_eval=32", "device=cpu"]
        command += [f"results_dir={folder}", f"output_dir={folder}"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        record = json.loads(next(Path(folder, "runs").glob("*.json")).read_text())
    return float(max(record["memory_bytes"].values()))


def encoder() -> nn.Module:
    """MiniLM-L6's shape with random weights."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(BertConfig(**SHAPE)).train()  # pyright: ignore[reportArgumentType]


def settings(method: str) -> RunConfig:
    """The composed settings of a method at `RANK`."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return parse(hydra.compose("config", [f"method={method}", f"rank={RANK}", "model=minilm"]))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/benchmarks"))
