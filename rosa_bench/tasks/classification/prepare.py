"""Prepare a text classification or regression task: an encoder with a head."""

import logging
from functools import partial

from rosa_bench.data.batches import TokenBatches, encode
from rosa_bench.data.rows import Row, fingerprint
from rosa_bench.metrics.load import LoadedMetric
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.loading.tokenizer import check_texts
from rosa_bench.models.spec import Encoder
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.seeds import set_seed
from rosa_bench.tasks.classification.rows import load_splits
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.prepared import EVALUATION_BATCHES, OnBatches, PreparedTask, max_length
from rosa_bench.training.evaluation import score

log = logging.getLogger(__name__)


def prepare(task: TextTask, context: Context) -> PreparedTask:
    """Load the rows, model and metric. Raises `UserError` as `Task.prepare` does."""
    metric = load_metric(task.metric)
    one_of("task.score", task.score, metric.scores)
    splits = load_splits(
        task,
        context.rows,
        limit_train=context.limit_train,
        limit_eval=context.limit_eval,
        held_out_rows=context.held_out_rows,
        held_out_max=context.held_out_max,
        seed=context.seed,
    )
    check_labels(task, metric, splits.held_out, "held-out rows", limit="limit_train" if context.limit_train else None)
    check_labels(task, metric, splits.validation, "validation rows", limit="limit_eval" if context.limit_eval else None)
    set_seed(context.seed)  # before the head and everything after it is drawn
    assert isinstance(context.model, Encoder)  # checked by the task
    loaded = load_encoder(context.model, context.source, num_outputs=task.num_outputs, labels=task.labels)
    length = max_length(context, loaded)
    check_texts(loaded.tokenizer, [row.texts for row in splits.train], max_length=length)

    def batches(rows: list[Row], *, size: int = 1, seed: int | None = None) -> TokenBatches:
        return encode(
            rows, loaded.tokenizer, max_length=length, batch_size=size * context.batch_size, seed=seed,
            pad_to_max=context.pad_to_max, grouped=context.group_by_length,
        ).to(context.device)  # fmt: skip

    def evaluation(rows: list[Row]) -> OnBatches:
        return OnBatches(batches(rows, size=EVALUATION_BATCHES), context, partial(score, metric=metric))

    held_out = evaluation(splits.held_out) if splits.held_out else None
    validation = evaluation(splits.validation)
    return PreparedTask(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        commit=loaded.commit,
        train=batches(splits.train, seed=context.seed),
        select=held_out or validation,
        selected_on="held_out" if held_out else "validation",
        report=validation if held_out else None,
        signature=metric.signature,
        info=splits.info,
        facts=dict(splits.facts),
        reported=fingerprint(splits.validation),
        drawn_head=bool(loaded.missing) or not loaded.stored,
    )


def check_labels(task: TextTask, metric: LoadedMetric, rows: list[Row], what: str, *, limit: str | None) -> None:
    """Check that rows can be scored. Raises `UserError` if the task's score is undefined because all labels are equal.

    Logs a warning if the score is defined, such as an accuracy. ``limit`` is the setting that limits the rows, if any.
    """
    if len({row.label for row in rows}) != 1:
        return
    label = rows[0].label
    name = f"{task.labels[int(label)]} ({label})" if task.labels else f"{label:g}"
    said = f"all {len(rows)} {what} have the label {name}" if len(rows) > 1 else f"there is only one of the {what}"
    if task.score in metric.undefined_if_constant:
        remedy = f"use a larger {limit}" if limit else "use rows with at least two different labels"
        raise UserError(f"task={task.name}: {said}, so {task.score} is undefined; {remedy}")
    log.warning("task=%s: %s, so the scores say little", task.name, said)
