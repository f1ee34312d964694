"""Texts, classified or rated by an encoder with a head."""

from functools import partial

from transformers import set_seed

from rosa_bench import metrics
from rosa_bench.config import RunConfig
from rosa_bench.data.batches import TokenBatches, encode
from rosa_bench.data.rows import Row, load_splits
from rosa_bench.data.task import TextTask
from rosa_bench.errors import UserError, one_of
from rosa_bench.evaluate import score
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.pretrained import Loaded, longest_input
from rosa_bench.models.spec import Encoder
from rosa_bench.problems.base import EVALUATION_BATCHES, OnBatches, Problem, prepare
from rosa_bench.setup import Setup


@prepare.register
def _(task: TextTask, setup: Setup) -> Problem:
    config = setup.config
    metric = metrics.load(task.metric)
    one_of("task.score", task.score, metric.figures)
    splits = load_splits(
        task,
        setup.data_dir,
        limit_train=config.limit_train,
        limit_eval=config.limit_eval,
        held_out_rows=config.protocol.held_out_rows,
        held_out_max=config.protocol.held_out_max,
        seed=config.seed,
    )
    set_seed(config.seed)  # before the head is drawn, and all that follows
    assert isinstance(config.model, Encoder)  # the task has checked it
    loaded = load_encoder(config.model, setup.source, num_outputs=task.num_outputs)
    length = max_length(config, loaded)

    def batches(rows: list[Row], *, size: int = 1, seed: int | None = None) -> TokenBatches:
        return encode(
            rows, loaded.tokenizer, max_length=length, batch_size=size * config.batch_size, seed=seed,
            pad_to_max=config.pad_to_max, grouped=config.group_by_length,
        ).to(setup.device)  # fmt: skip

    def evaluation(rows: list[Row]) -> OnBatches:
        return OnBatches(batches(rows, size=EVALUATION_BATCHES), setup, partial(score, metric=metric))

    held_out = evaluation(splits.held_out) if splits.held_out else None
    validation = evaluation(splits.validation)
    return Problem(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        commit=loaded.commit,
        train=batches(splits.train, seed=config.seed),
        select=held_out or validation,
        selected_on="held_out" if held_out else "validation",
        report=validation if held_out else None,
        signature=metric.signature,
        info=splits.info,
    )


def max_length(config: RunConfig, loaded: Loaded) -> int:
    """The length that inputs are cut to. Raises `UserError` if none is given, or the model has no positions for it."""
    longest = longest_input(loaded)
    if config.max_length is None or config.max_length > longest:
        raise UserError(f"max_length={config.max_length} is not what {config.model.name} takes; use at most {longest}")
    return config.max_length
