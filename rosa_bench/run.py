"""One run, from a checked configuration to a record."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from transformers import set_seed

from rosa_bench import metrics
from rosa_bench.best import BestEpoch
from rosa_bench.config import RunConfig
from rosa_bench.data.batches import Batches, encode
from rosa_bench.data.rows import Row, Splits, load_splits
from rosa_bench.device import autocast, describe
from rosa_bench.errors import UserError, one_of
from rosa_bench.evaluate import predict, score
from rosa_bench.files import new_folder
from rosa_bench.measure import Meter
from rosa_bench.metrics import LoadedMetric
from rosa_bench.models.encoder import Loaded, load_encoder, longest_input
from rosa_bench.provenance import git_state, versions
from rosa_bench.record import RunRecord, public_config, runs_folder, save_record
from rosa_bench.setup import Setup
from rosa_bench.train import Epoch, Recipe, Scores, fit

log = logging.getLogger(__name__)


def run(setup: Setup) -> RunRecord:
    """Load, train, evaluate and record. A run that breaks off is recorded too, and its error raised again."""
    config, meter = setup.config, Meter(setup.device)
    metric = load_metric(config)
    with meter.phase("load"):
        splits = load_splits(
            config.task,
            setup.data_dir,
            limit_train=config.limit_train,
            limit_eval=config.limit_eval,
            held_out_rows=config.protocol.held_out_rows,
            held_out_max=config.protocol.held_out_max,
            seed=config.seed,
        )
        set_seed(config.seed)  # before the head is drawn, and all that follows
        loaded = load_encoder(config.model, setup.source, num_outputs=config.task.num_outputs)
        record = begin(setup, splits, loaded)
        config.method.attach(loaded.model)
        loaded.model.to(setup.device)  # pyright: ignore[reportArgumentType]
        record.parameters["trainable"] = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    say_start(setup, record)
    with recorded(record, meter, setup.results_dir):
        record.scores = train_and_score(setup, splits, loaded, metric, meter=meter, record=record)
    say_end(setup, record)
    return record


def train_and_score(
    setup: Setup, splits: Splits, loaded: Loaded, metric: LoadedMetric, *, meter: Meter, record: RunRecord
) -> dict:
    """Train, choose the epoch as the protocol says, merge, and score on dev. Returns the record's ``scores``."""
    config, model = setup.config, loaded.model
    context = autocast(setup.precision, setup.device)

    def batches(rows: list[Row], seed: int | None = None) -> Batches:
        size = config.batch_size if seed is not None else 4 * config.batch_size  # no gradients: more fit
        return encode(rows, loaded.tokenizer, max_length=max_length(config, loaded), batch_size=size, seed=seed)

    def evaluate(data: Batches) -> Scores:
        return score(predict(model, data, device=setup.device, autocast=context), metric)

    with meter.phase("load"):
        train = batches(splits.train, config.seed)
        validation = batches(splits.validation)
        selection = batches(splits.held_out) if splits.held_out else validation

    reported = config.task.score
    best = BestEpoch(model, reported, keep_weights=bool(splits.held_out) or config.save_model)
    scores = {"reported": reported, "signature": metric.signature, "epochs": [], "selected": None, "last": None}
    record.scores = scores  # so that a run that breaks off leaves what it had

    def end_epoch(number: int, epoch: Epoch) -> None:
        scores["epochs"].append(asdict(epoch))
        best.offer(number, epoch.scores)

    history = fit(
        model,
        config.method,
        train,
        recipe=recipe(config, len(train)),
        evaluate=lambda: evaluate(selection),
        autocast=context,
        meter=meter,
        end_epoch=end_epoch,
    )
    with meter.phase("evaluate"):
        # Dev is scored once where something else selected; where it selected itself, its scores are known.
        last = evaluate(validation) if splits.held_out else history[-1].scores
        best.restore()
        config.method.merge(model)
        selected = evaluate(validation) if splits.held_out else history[best.number].scores
    if config.save_model:
        save_model(loaded, setup.saved_model)
    scores["selected_on"] = "held_out" if splits.held_out else "validation"
    scores["selection_score"] = best.score
    scores["selected"] = {"epoch": best.number + 1, **selected}
    scores["last"] = {"epoch": len(history), **last}
    return scores


def load_metric(config: RunConfig) -> LoadedMetric:
    """The task's metric. Raises `UserError` if it has no such figure as the task reports."""
    metric = metrics.load(config.task.metric)
    one_of("task.score", config.task.score, metric.figures)
    return metric


def recipe(config: RunConfig, steps_per_epoch: int) -> Recipe:
    """The optimisation settings, with durations turned into steps."""
    optimizer = config.optimizer
    return Recipe(
        lr=config.lr,
        epochs=config.epochs,
        warmup_steps=optimizer.warmup(config.epochs * steps_per_epoch),
        betas=optimizer.betas,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        clip_norm=optimizer.clip_norm,
        accumulate=config.accumulate,
        reset=config.protocol.optimizer_reset,
    )


def max_length(config: RunConfig, loaded: Loaded) -> int:
    """The length that inputs are cut to. Raises `UserError` if the model has no positions for it."""
    longest = longest_input(loaded.model, loaded.tokenizer)
    if config.max_length > longest:
        raise UserError(f"max_length={config.max_length} is more than {config.model.name} takes; use at most {longest}")
    return config.max_length


def begin(setup: Setup, splits: Splits, loaded: Loaded) -> RunRecord:
    """A record of what is known before training."""
    return RunRecord(
        id=setup.id,
        status="running",
        config=public_config(setup.config),
        deviations=setup.deviations,
        data=asdict(splits.info),
        model={"source": setup.source.kind, **setup.source.identity, "commit": loaded.commit},
        device={**describe(setup.device), "precision": setup.precision},
        versions=versions(),
        git=git_state(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parameters={"total": sum(p.numel() for p in loaded.model.parameters())},
    )


@contextmanager
def recorded(record: RunRecord, meter: Meter, results_dir: Path) -> Iterator[None]:
    """Save the record when the block ends, however it ends; a user's mistake found inside leaves none."""
    try:
        yield
        record.status = "completed"
    except UserError:
        record.status = "refused"
        raise
    except KeyboardInterrupt:
        record.status, record.error = "interrupted", "stopped from the keyboard"
        raise
    except Exception as error:
        record.status, record.error = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        record.time_s = {**meter.time_s, "total": sum(meter.time_s.values())}
        record.memory_bytes = dict(meter.memory_bytes)
        if record.status != "refused":
            path = save_record(record, results_dir)
            if record.status != "completed":
                log.error("%s; recorded in %s", record.status, path)


def save_model(loaded: Loaded, folder: Path) -> None:
    """Write the merged model and its tokenizer in Hugging Face form, whole or not at all."""
    with new_folder(folder) as new:
        loaded.model.save_pretrained(new)
        loaded.tokenizer.save_pretrained(new)
    log.info("model saved in %s", folder)


def say_start(setup: Setup, record: RunRecord) -> None:
    """One line on what is about to run."""
    trained, total = record.parameters["trainable"], record.parameters["total"]
    rows = record.data["rows"]
    log.info(
        "%s: %s of %s parameters train, on %d rows (%s), %s in %s",
        setup.id, f"{trained:,}", f"{total:,}", rows["train"], record.data["source"].split(" ")[0],
        setup.device, setup.precision,
    )  # fmt: skip
    for key, (value, expected) in setup.deviations.items():
        log.info("  differs from protocol %s: %s=%s (there: %s)", setup.config.protocol.name, key, value, expected)


def say_end(setup: Setup, record: RunRecord) -> None:
    """One line on how it went, and where the record is."""
    reported, scores = record.scores["reported"], record.scores
    log.info(
        "%s %.2f at epoch %d of %d (last: %.2f), in %.1f s; %s",
        reported, 100 * scores["selected"][reported], scores["selected"]["epoch"], scores["last"]["epoch"],
        100 * scores["last"][reported], record.time_s["total"], runs_folder(setup.results_dir) / record.path_name,
    )  # fmt: skip
