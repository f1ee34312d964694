"""Cost of whole runs: start-up, epochs, time outside kernels, peak memory, and several runs on one GPU.

    python -m scripts.benchmarks.whole_run [results/benchmarks] [data_dir]

Prints a table and writes it as JSON. On a GPU: ROSA on CoLA (from ``data_dir``; without it, on the generated task
grammar), 10 epochs with batch size 32, in RoBERTa-base's shape with random weights, under protocol ``paper``. Its
tokenizer of 8,000 tokens is trained on the sentences, which gives the same lengths as RoBERTa's own. On a CPU: a short
run in MiniLM-L6's shape.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, RobertaConfig

from rosa_bench.api import compose
from rosa_bench.tasks.classification.rows import load_rows
from scripts.arguments import RESULTS, existing_folder, start
from scripts.reporting import ROBERTA_BASE, SMALL, Figures, interleaved, write_report

CLI = [sys.executable, "-m", "rosa_bench.cli.main"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}
EPOCHS = 10


def main(folder: Path = RESULTS, data_dir: Path | None = None) -> None:
    """Run every benchmark, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {"start_up": start_up()}
    with tempfile.TemporaryDirectory() as work:
        if device.type == "cuda":
            model = make_model(Path(work, "model"), data_dir)
            task = ["task=grammar"] if data_dir is None else ["task=cola", f"data_dir={data_dir}"]
            command = [*task, "model=roberta_base", f"model.path={model}", "max_length=128", f"epochs={EPOCHS}"]
            figures["run"] = whole_run(command, Path(work, "run"))
            for method in ("ft", "lora"):
                figures[f"peak memory, {method}"] = peaks([*command, f"method={method}"], Path(work, method))
            figures["jobs on one GPU"] = side_by_side([*command, "epochs=3"], Path(work, "jobs"))
        else:
            figures["peak memory"] = peak_memory(Path(work))
    write_report("whole_run", figures, folder=folder, what=__doc__, device=device)


def start_up() -> Figures:
    """Return seconds until help is printed, and until a wrong setting is reported."""
    return interleaved(
        {
            "help_s": lambda: subprocess.run([*CLI, "--help"], capture_output=True, check=True),
            "configuration_error_s": lambda: subprocess.run([*CLI, "rank=0"], capture_output=True, check=False),
        },
        repeats=3,
    )


def whole_run(command: list[str], work: Path) -> Figures:
    """Time the second of two runs of ROSA, resampled every epoch. Tokens and compiled kernels are then on disk.

    ``beside_epochs_s`` is time outside epochs. Kernels of an epoch include its resample and evaluation.
    """
    command = [*command, "method=rosa", "method.resample_every=1"]
    once([*command, "epochs=1"], work / "first")
    record, wall_s = once(command, work / "second")
    ends = [epoch["time_s"] for epoch in record["scores"]["epochs"]]
    epochs = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    times = record["time_s"]
    kernel_s = kernels_s([*command, "epochs=2"], work / "kernels")
    return {
        "epoch_s": statistics.median(epochs[1:]),
        "first_epoch_s": epochs[0],
        "wall_s": wall_s,
        "beside_epochs_s": wall_s - ends[-1],
        **{f"{name}_s": times[name] for name in ("load", "train", "evaluate", "resample")},
        "resample_each_s": times["resample"] / (EPOCHS - 1),
        "kernels_in_an_epoch_s": kernel_s,
        "share_not_in_kernels": 1 - EPOCHS * kernel_s / ends[-1],
        **{f"peak_{name}_MB": value / 1e6 for name, value in record["memory_bytes"].items()},
    }


def kernels_s(command: list[str], work: Path) -> float:
    """Return seconds the GPU spends in kernels during the last epoch of a run, profiled in its own process."""
    return float(
        printed([sys.executable, "-m", "scripts.benchmarks.kernel_time", *command, *folders(work)]).split()[-1]
    )


def peaks(command: list[str], work: Path) -> Figures:
    """Return peak memory by phase in a run of two epochs."""
    record, _ = once([*command, "epochs=2"], work)
    return {f"{phase}_MB": value / 1e6 for phase, value in record["memory_bytes"].items()}


def side_by_side(command: list[str], work: Path) -> Figures:
    """Return the throughput in epochs of several runs that share the GPU, relative to one run, without start-up."""
    figures: Figures = {}
    alone = 0.0
    for count in (1, 2, 4, 8):
        with ThreadPoolExecutor(count) as pool:
            places = [work / f"{count}-{number}" for number in range(count)]
            records = [record for record, _ in pool.map(lambda place: once(command, place), places)]
        seconds = [record["scores"]["epochs"][-1]["time_s"] for record in records]
        rate = sum(1 / one for one in seconds)
        alone = alone or rate
        figures[f"{count}, throughput"] = rate / alone
    return figures


def once(command: list[str], work: Path) -> tuple[dict[str, Any], float]:
    """Make a run; return its record and the seconds its process took."""
    started = time.perf_counter()
    printed([*CLI, *command, *folders(work)])
    wall_s = time.perf_counter() - started
    [path] = Path(work, "runs").rglob("*.json")
    record = json.loads(path.read_text())
    shutil.rmtree(work)
    return record, wall_s


def printed(command: list[str]) -> str:
    """Return what a command prints. Raises RuntimeError with its output if it fails."""
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{found.stdout}\n{found.stderr}")
    return found.stdout


def folders(work: Path) -> list[str]:
    """Return settings that make a run write everything into one folder."""
    return [f"results_dir={work}", f"output_dir={work}"]


def make_model(folder: Path, data_dir: Path | None) -> Path:
    """Save RoBERTa-base with random weights and a tokenizer trained on the task's sentences; return its folder."""
    task = compose(["task=grammar" if data_dir is None else "task=cola"]).task
    texts = [row.texts[0] for row in load_rows(task, "train", data_dir)]  # pyrefly: ignore[bad-argument-type]
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = ByteLevelBPETokenizer(add_prefix_space=False)
    made.train_from_iterator(texts, vocab_size=8000, special_tokens=special, show_progress=False)
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    config = RobertaConfig(**ROBERTA_BASE)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def peak_memory(work: Path) -> Figures:
    """Return peak resident bytes of short runs on a CPU, medians of three, and ratios to LoRA's."""
    shape = [f"model.random.{key}={value}" for key, value in {**SMALL, "vocab_size": 30522}.items()]
    command = ["task=grammar", "model=tiny_bert", *shape, "epochs=3", "limit_train=320", "limit_eval=32", "device=cpu"]
    medians = {}
    for method in ("ft", "lora", "rosa"):
        given = [*command, f"method={method}", *(["method.resample_every=1"] if method == "rosa" else [])]
        found = [max(once(given, work / method)[0]["memory_bytes"].values()) for _ in range(3)]
        medians[method] = float(statistics.median(found))
    ratios = {f"{name}_to_lora": medians[name] / medians["lora"] for name in ("ft", "rosa")}
    return {**{f"{name}_bytes": value for name, value in medians.items()}, **ratios}


if __name__ == "__main__":
    start(main, __doc__, existing_folder, existing_folder)
