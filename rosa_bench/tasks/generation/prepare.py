"""Prepare a generation task: a decoder that writes texts from prompts."""

import math

from transformers import PreTrainedModel

from rosa_bench.data.hub import fetch_rows
from rosa_bench.data.rows import sample
from rosa_bench.metrics.load import LoadedMetric
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.loading.pretrained import Loaded, max_input_length
from rosa_bench.models.loading.tokenizer import check_texts
from rosa_bench.models.spec import Decoder
from rosa_bench.records.generations import Generation
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.resources.device import autocast
from rosa_bench.system.seeds import set_seed
from rosa_bench.tasks.context import Context
from rosa_bench.tasks.generation.generate import generate
from rosa_bench.tasks.generation.prompts import Prompt, group_by_prompt, load_pairs, load_prompts
from rosa_bench.tasks.generation.sequences import Encoding
from rosa_bench.tasks.generation.task import LIKELIHOODS, Decoding, GenerationTask
from rosa_bench.tasks.prepared import EVALUATION_BATCHES, Evaluate, PreparedTask, Result
from rosa_bench.training.cuda_graphs import Replay, eager
from rosa_bench.training.evaluation import mean_loss

MAX_LOSS = 700.0  # its exponential is still finite


def prepare(task: GenerationTask, context: Context) -> PreparedTask:
    """Load the prompts, model and metric. Raises `UserError` as `Task.prepare` does."""
    metric = load_metric(task.metric)
    one_of("task.score", task.score, (*metric.scores, *LIKELIHOODS))
    splits = load_prompts(task, context.rows, limit_train=context.limit_train, limit_eval=context.limit_eval)
    set_seed(context.seed)
    assert isinstance(context.model, Decoder)  # checked by the task
    loaded = load_decoder(context.model, context.source)
    longest, written = max_input_length(loaded), task.decoding.max_new_tokens if task.decoding else 0
    if context.max_length is None or context.max_length > longest or written >= longest:
        raise UserError(
            f"max_length={context.max_length} and task.decoding.max_new_tokens={written} do not suit "
            f"model={context.model.name}; use max_length of at most {longest}, and fewer new tokens"
        )
    check_texts(loaded.tokenizer, [(pair.reference,) for pair in splits.train], max_length=context.max_length)
    encoding = Encoding(
        loaded.tokenizer, separator=task.separator, max_length=context.max_length, pad_to_max=context.pad_to_max
    )
    if task.decoding:
        limit = min(longest - written, context.max_length)
        report = texts(splits.test, task.decoding, encoding, context, metric=metric, limit=limit)
    else:
        report = perplexity(splits.test, encoding, context)
    return PreparedTask(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        commit=loaded.commit,
        train=encoding.sequences(
            splits.train,
            loss_on_prompt=task.loss_on_prompt,
            batch_size=context.batch_size,
            seed=context.seed,
            grouped=context.group_by_length,
        ).to(context.device),
        select=perplexity(splits.validation, encoding, context),
        selected_on="validation_split",
        report=report,
        signature=metric.signature if task.decoding else "",
        info=splits.info,
        facts={"prompts": {"validation": len(splits.validation), "test": len(splits.test)}},
    )


def texts(
    prompts: list[Prompt],
    decoding: Decoding,
    encoding: Encoding,
    context: Context,
    *,
    metric: LoadedMetric,
    limit: int,
) -> Evaluate:
    """Return an evaluation of the texts generated from the last ``limit`` tokens of each prompt, and `perplexity`."""
    likelihood = perplexity(prompts, encoding, context)
    tokens = encoding.prompts([prompt.text for prompt in prompts], limit=limit)
    precision = autocast(context.precision, context.device)

    def report(model: PreTrainedModel, replay: Replay = eager) -> Result:
        outputs = generate(
            model,
            encoding.tokenizer,
            tokens,
            decoding,
            end=encoding.end,
            padding=encoding.padding,
            batch_size=EVALUATION_BATCHES * context.batch_size,
            autocast=precision,
        )
        scores = metric.module.compute(predictions=outputs, references=[prompt.references for prompt in prompts]) or {}
        generations = tuple(
            Generation(prompt=prompt.text, output=output, references=tuple(prompt.references))
            for prompt, output in zip(prompts, outputs, strict=True)
        )
        return Result({**scores, **likelihood(model, replay).scores}, generations)

    return report


def validation_loss(task: GenerationTask, context: Context, loaded: Loaded) -> Evaluate:
    """Return the perplexity of the validation references given their prompts, as `Task.validation_loss` does."""
    assert context.max_length is not None  # a recipe's
    pairs = load_pairs(task, task.validation, fetch_rows(task, context.rows))
    prompts = sample(group_by_prompt(pairs), context.limit_eval, key="limit_eval", what=f"{task.validation} prompts")
    encoding = Encoding(loaded.tokenizer, separator=task.separator, max_length=context.max_length)
    return perplexity(prompts, encoding, context)


def perplexity(prompts: list[Prompt], encoding: Encoding, context: Context) -> Evaluate:
    """Return an evaluation of the references given their prompts: ``perplexity`` and its logarithm, ``loss``."""
    pairs = [pair for prompt in prompts for pair in prompt.pairs]
    batches = encoding.sequences(pairs, loss_on_prompt=False, batch_size=context.batch_size).to(context.device)
    precision = autocast(context.precision, context.device)

    def evaluate(model: PreTrainedModel, replay: Replay = eager) -> Result:
        loss = mean_loss(model, batches, device=context.device, autocast=precision, replay=replay)
        return Result({"perplexity": math.exp(min(loss, MAX_LOSS)), "loss": loss})

    return evaluate
