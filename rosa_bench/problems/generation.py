"""Texts to be written by a decoder from what a prompt says."""

import math

from transformers import PreTrainedModel, set_seed

from rosa_bench import metrics
from rosa_bench.data.generation import GenerationTask
from rosa_bench.data.prompts import Prompt, load_prompts
from rosa_bench.data.sequences import Encoding
from rosa_bench.device import autocast
from rosa_bench.errors import UserError, one_of
from rosa_bench.evaluate import mean_loss
from rosa_bench.generate import generate
from rosa_bench.generations import Generation
from rosa_bench.graphs import Replay, plainly
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.pretrained import longest_input
from rosa_bench.models.spec import Decoder
from rosa_bench.problems.base import EVALUATION_BATCHES, Evaluate, Problem, Result, prepare
from rosa_bench.setup import Setup

LARGEST_LOSS = 700.0  # whose exponential is still a number


@prepare.register
def _(task: GenerationTask, setup: Setup) -> Problem:
    config = setup.config
    metric = metrics.load(task.metric)
    one_of("task.score", task.score, metric.figures)
    splits = load_prompts(task, setup.data_dir, limit_train=config.limit_train, limit_eval=config.limit_eval)
    set_seed(config.seed)
    assert isinstance(config.model, Decoder)  # the task has checked it
    loaded = load_decoder(config.model, setup.source)
    longest = longest_input(loaded)
    room = longest - task.decoding.max_new_tokens  # for the prompt
    if config.max_length is None or config.max_length > longest or room < 1:
        raise UserError(
            f"max_length={config.max_length} and task.decoding.max_new_tokens={task.decoding.max_new_tokens} are not "
            f"what {config.model.name} takes: at most {longest}, and fewer new ones"
        )
    encoding = Encoding(
        loaded.tokenizer, separator=task.separator, max_length=config.max_length, pad_to_max=config.pad_to_max
    )
    context = autocast(setup.precision, setup.device)

    def perplexity(prompts: list[Prompt]) -> Evaluate:
        pairs = [pair for prompt in prompts for pair in prompt.pairs]
        batches = encoding.sequences(pairs, loss_on_prompt=False, batch_size=config.batch_size).to(setup.device)

        def evaluate(model: PreTrainedModel, replay: Replay = plainly) -> Result:
            loss = mean_loss(model, batches, device=setup.device, autocast=context, replay=replay)
            return Result({"perplexity": math.exp(min(loss, LARGEST_LOSS)), "loss": loss})

        return evaluate

    prompts = encoding.prompts([prompt.text for prompt in splits.test], room=min(room, config.max_length))
    test_perplexity = perplexity(splits.test)

    def report(model: PreTrainedModel, replay: Replay = plainly) -> Result:
        outputs = generate(
            model,
            loaded.tokenizer,
            prompts,
            task.decoding,
            end=encoding.end,
            padding=encoding.padding,
            batch_size=EVALUATION_BATCHES * config.batch_size,
            autocast=context,
        )
        references = [prompt.references for prompt in splits.test]
        figures = metric.module.compute(predictions=outputs, references=references) or {}
        generations = tuple(
            Generation(prompt=prompt.text, output=output, references=tuple(prompt.references))
            for prompt, output in zip(splits.test, outputs, strict=True)
        )
        return Result({**figures, **test_perplexity(model, replay).scores}, generations)

    return Problem(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        commit=loaded.commit,
        train=encoding.sequences(
            splits.train,
            loss_on_prompt=task.loss_on_prompt,
            batch_size=config.batch_size,
            seed=config.seed,
            grouped=config.group_by_length,
        ).to(setup.device),
        select=perplexity(splits.validation),
        selected_on="validation_split",
        report=report,
        signature=metric.signature,
        info=splits.info,
        facts={"prompts": {"validation": len(splits.validation), "test": len(splits.test)}},
    )
