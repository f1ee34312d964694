"""Memory and time of gradient checkpointing and of layer-wise loading, beside full fine-tuning, LoRA and ROSA.

    python -m scripts.benchmarks.memory_savers [results/benchmarks] [seconds in which to begin a row] [method ...]

Prints each row as it is measured, writes all of them as JSON after each one, and prints a table at the end. A row is a
method with a saver: none, ``gradient_checkpointing=true``, or that and ``offload=layers``. A Llama of 1.2 billion
parameters with random weights is trained on 8 x 2048 and 8 x 512 random tokens, by the loop and with the settings of a
run. Adapters are on the attention layers. All rows are measured once before any is measured again. Methods are ft,
rosa, lora and lisa, or those that are named, with further settings after commas: ``rosa,base_dtype=bfloat16``,
``rosa,method.targets=all-linear`` or ``galore``, whose decompositions before the first step take longer. On a CPU, a
tiny Llama shows that it works; memory is then that of the process.

``MiB``              peak memory of training
``attached_MiB``     memory of the model with the method attached, before training; layers move to the CPU after that
``ms``               median time of a step, without the first two of each training
``steps``            how many steps that is the median of
``..., to none``     ratio to the same method without a saver
``..., to ft``       ratio to full fine-tuning without a saver
``loss_difference``  greatest difference to the losses without a saver, as a fraction; it is due to rounding alone

Without a saver, a GPU's steps are captured, and layers with the same input are computed in one product, as in a run;
savers run without both. A row that cannot be measured is named with the reason, and the others go on. One that would
begin too late is left out.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rosa_bench import api
from rosa_bench.methods.base import RunLength
from rosa_bench.models.base_dtype import store_in
from rosa_bench.runs.prepare import calibration_batches
from rosa_bench.runs.run import fast, recipe
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.resources.meter import Meter, release_unused
from rosa_bench.tasks.language_modelling.packing import Packed, PackedBatches
from rosa_bench.training.loop import fit
from rosa_bench.training.observers.base import Observer
from rosa_bench.training.state import Training
from scripts.arguments import RESULTS, existing_folder, number, start
from scripts.benchmarks.decoder_step import decoder
from scripts.benchmarks.several_gpus import LLAMA, TINY_LLAMA
from scripts.benchmarks.sizes import allocated
from scripts.reporting import Figures, wait_for_gpu, write_report

METHODS = ("ft", "rosa", "lora", "lisa")
SAVERS = ("", "gradient_checkpointing=true", "gradient_checkpointing=true offload=layers")
SHAPES = {"cuda": ((8, 2048), (8, 512)), "cpu": ((2, 16),)}  # rows, length
ROUNDS, STEPS, WARM_UPS = 2, 6, 2  # the second step of a training may be captured, which takes long
TOLERANCE = {"bfloat16": 1e-2, "float32": 1e-4}  # of losses, as a fraction


class Row(NamedTuple):
    """What is measured. ``method`` may have further settings after commas; ``saver`` are settings after spaces."""

    rows: int
    length: int
    method: str
    saver: str

    @property
    def title(self) -> str:
        """The row in words."""
        return f"{self.rows} x {self.length}, {self.method}, {self.saver or 'none'}"


class Measured(NamedTuple):
    """What trainings of a row measured: seconds of each step after the warm-up, losses of all steps, and bytes."""

    steps_s: list[float]
    losses: list[float]
    attached_bytes: int
    peak_bytes: int
    precision: str

    def and_then(self, later: "Measured") -> "Measured":
        """Return both in one. The losses are those of the first."""
        steps_s, peak = self.steps_s + later.steps_s, max(self.peak_bytes, later.peak_bytes)
        return self._replace(steps_s=steps_s, peak_bytes=peak)


class Watch(Observer):
    """Times every step, with what the method does before it, and keeps the losses."""

    def __init__(self) -> None:
        self.steps_s: list[float] = []
        self.losses: list[float] = []

    def on_step_start(self, training: Training) -> None:  # noqa: ARG002 - a hook point
        wait_for_gpu()
        self.started = time.perf_counter()

    def on_step_end(self, training: Training) -> None:
        wait_for_gpu()
        self.steps_s.append(time.perf_counter() - self.started)
        self.losses.append(training.losses[training.index - 1].item())


def main(folder: Path = RESULTS, limit_s: float = 105, *methods: str) -> None:
    """Measure every row, print and write the figures."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    methods = methods or METHODS
    planned = [Row(*shape, method, saver) for shape in SHAPES[device.type] for method in methods for saver in SAVERS]
    found, reasons, began = dict[Row, Measured](), dict[str, str](), time.perf_counter()
    about: dict[str, Any] = {"folder": folder, "what": __doc__, "device": device, "facts": {"not_measured": reasons}}
    with tempfile.TemporaryDirectory() as work:
        for row in planned:
            if not row.saver:
                api.compose(words(row, device, work))  # a mistake in a word ends the program now
        for row in planned * ROUNDS:
            elapsed_s = time.perf_counter() - began
            late = elapsed_s > limit_s
            if row.title in reasons or (late and row in found):
                continue
            outcome = "left out, for lack of time" if late else attempt(row, device, work)
            if isinstance(outcome, str):
                reasons[row.title] = outcome
                shown = f"not measured: {outcome}"
            else:
                found[row] = found[row].and_then(outcome) if row in found else outcome
                shown = ", ".join(f"{key} {value:.4g}" for key, value in figures_of(row, found).items())
                shown += complaint(row, found)
            print(f"{elapsed_s:5.1f} s  {row.title}: {shown}", flush=True)
            write_report("memory_savers", report(found), **about, printed=False)
    write_report("memory_savers", report(found), **about)


def attempt(row: Row, device: torch.device, work: str) -> Measured | str:
    """Measure a row, or return why that is not possible."""
    try:
        return measured(row, device, work)
    except Exception as error:  # whatever it is, the other rows are still to be measured
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def words(row: Row, device: torch.device, work: str) -> list[str]:
    """Return the settings of a row's run."""
    method, *further = row.method.split(",")
    return [
        "task=new_language", "model=tiny_llama", "protocol=fair", "default.method.targets=attention", "epochs=1",
        "optimizer.warmup_fraction=0", f"batch_size={row.rows}", f"device={device.type}", f"results_dir={work}",
        f"output_dir={work}", f"method={method}", *further, *row.saver.split(),
    ]  # fmt: skip


def measured(row: Row, device: torch.device, work: str) -> Measured:
    """Train a new model for a few steps as a run does, but for its own shape and data, and for no evaluation."""
    release_unused()
    resolved = api.resolve(api.compose(words(row, device, work)))
    config = resolved.config
    model = decoder(device, shape=LLAMA if device.type == "cuda" else TINY_LLAMA)
    store_in(config.base_dtype, model, head=config.method.head)
    batches = same_batch(row).to(device)
    model = config.method.attach(model, calibration_batches(batches, device))
    config.method.before_training(model, RunLength(len(batches), config.epochs))
    held = allocated(device)
    meter, watch = Meter(device), Watch()
    with fast(model, resolved, batches) as replay:  # pyrefly: ignore[bad-argument-type]
        fit(
            model,
            config.method,
            batches,
            recipe=recipe(config, len(batches)),
            evaluate=lambda: {"loss": 0.0},
            autocast=autocast(resolved.precision, device),
            meter=meter,
            replay=replay,
            observers=[watch],
        )
    peak = max(meter.memory_bytes.values())
    return Measured(watch.steps_s[WARM_UPS:], watch.losses, held, peak, resolved.precision)


def same_batch(row: Row) -> PackedBatches:
    """Return the same random tokens, which are their own labels, for every step: their loss falls from the start."""
    ids = torch.randint(5, 500, (row.rows, row.length), generator=torch.Generator().manual_seed(0)).repeat(STEPS, 1)
    return PackedBatches(Packed(ids, ids.clone()), batch_size=row.rows)


def report(found: dict[Row, Measured]) -> dict[str, Figures]:
    """Return the figures of every row so far."""
    return {row.title: figures_of(row, found) for row in found}


def figures_of(row: Row, found: dict[Row, Measured]) -> Figures:
    """Return the figures of a row, with ratios to those rows that were measured."""
    own = costs(found[row])
    figures = {**own, "attached_MiB": found[row].attached_bytes / 2**20, "steps": float(len(found[row].steps_s))}
    for name, base in (("none", row._replace(saver="")), ("ft", row._replace(method="ft", saver=""))):
        if base in found and base != row:
            figures |= {f"{key}, to {name}": own[key] / value for key, value in costs(found[base]).items()}
    if (difference := loss_difference(row, found)) is not None:
        figures["loss_difference"] = difference
    return figures


def costs(measured: Measured) -> Figures:
    """Return the peak memory and the median time of a step."""
    return {"MiB": measured.peak_bytes / 2**20, "ms": 1e3 * statistics.median(measured.steps_s)}


def loss_difference(row: Row, found: dict[Row, Measured]) -> float | None:
    """Return how far a row's losses are from those without a saver, as a fraction; None if there is no other row."""
    base = row._replace(saver="")
    if base == row or base not in found:
        return None
    pairs = zip(found[row].losses, found[base].losses, strict=True)
    return max(abs(own - other) / abs(other) for own, other in pairs)


def complaint(row: Row, found: dict[Row, Measured]) -> str:
    """Return words about losses that differ by more than rounding, or none."""
    difference = loss_difference(row, found)
    if difference is None or difference <= TOLERANCE[found[row].precision]:
        return ""
    return "; THE LOSSES DIFFER from those without a saver"


if __name__ == "__main__":
    start(main, __doc__, existing_folder, number, rest=str)
