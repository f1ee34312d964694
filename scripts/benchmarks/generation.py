"""Cost of generation: merged and unmerged adapters against no adapters, and batches against single prompts.

    python -m scripts.benchmarks.generation [results/benchmarks] [threads]

Prints a table and writes it as JSON. The model is a GPT-2 of 6 layers, 384 wide, with random weights (12 of 768 on a
GPU). Every output is exactly 64 tokens long, written by beam search with 5 beams and no repeated 4-grams. Times
are medians of interleaved repetitions; compare their ratios within one run.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rosa_bench.api import compose
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.methods.base import Method
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.tasks.generation.generate import generate, generation_config, logits_processors
from rosa_bench.tasks.generation.task import Decoding
from scripts.arguments import RESULTS, existing_folder, start, whole_number
from scripts.reporting import Figures, interleaved, write_report

PROMPTS, TOKENS, BEAMS, RANK = 64, 64, 5, 8
DECODING = Decoding(beams=BEAMS, no_repeat_ngram=4, max_new_tokens=TOKENS, length_penalty=1.0)
NEVER = -1  # an end token that never occurs


def main(folder: Path = RESULTS, threads: int = 2) -> None:
    """Run every benchmark, print and write the figures."""
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()  # it warns about the end token
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = {"latency": latency(device), "batching": batching(device)}
    write_report("generation", figures, folder=folder, what=__doc__, device=device)


def latency(device: torch.device) -> Figures:
    """Return tokens per second: the untouched model, merged LoRA, and unmerged LoRA (ours and HF PEFT's)."""
    plain = decoder(device)
    unmerged = copy.deepcopy(plain)
    method = lora()
    method.attach(unmerged)
    for layer in low_rank_layers(unmerged):
        nn.init.normal_(layer.a, std=0.01)
    merged = copy.deepcopy(unmerged)
    method.merge(merged)
    targets = ["attn.c_attn", "attn.c_proj"]
    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, fan_in_fan_out=True)
    branches = get_peft_model(copy.deepcopy(plain), settings)
    models = {"untouched": plain, "merged": merged, "unmerged": unmerged, "unmerged_peft": branches}
    few = prompts(8)
    times = interleaved({name: writing(model, few, size=8) for name, model in models.items()}, repeats=5)  # pyrefly: ignore[bad-argument-type]
    speeds = {f"{name}_tokens_per_s": len(few) * TOKENS / time_s for name, time_s in times.items()}
    ratios = {f"{name}_to_untouched": times[name] / times["untouched"] for name in models if name != "untouched"}
    return {**speeds, **ratios}


def batching(device: torch.device) -> Figures:
    """Return seconds for all prompts in one batch, and one by one: by our code, and by transformers' alone."""
    model, all_of_them = decoder(device), prompts(PROMPTS)
    sizes = {"batched_s": PROMPTS, "one_by_one_s": 1}
    actions = {name: writing(model, all_of_them, size=size) for name, size in sizes.items()}
    actions["transformers_one_by_one_s"] = by_transformers(model, all_of_them)
    times = interleaved(actions, repeats=1)
    speedups = {f"speedup_to_{name[:-2]}": times[name] / times["batched_s"] for name in times if "one" in name}
    return {**times, **speedups}


def by_transformers(model: PreTrainedModel, given: list[list[int]]) -> Callable[[], object]:
    """Return a function that continues every prompt in ``given`` with transformers' own cache."""

    def write() -> None:
        for prompt in given:
            ids = torch.tensor([prompt], device=model.device)
            settings = generation_config(DECODING, end=NEVER, padding=1)
            limits = logits_processors(DECODING, prompt_length=len(prompt))
            model.generate(ids, generation_config=settings, logits_processor=limits)  # pyrefly: ignore[not-callable]

    return write


def writing(model: PreTrainedModel, given: list[list[int]], *, size: int) -> Callable[[], object]:
    """Return a function that continues every prompt in ``given``."""
    return lambda: generate(
        model,
        byte_tokenizer(max_length=512),
        given,
        DECODING,
        end=NEVER,
        padding=1,
        batch_size=size,
        autocast=nullcontext,
    )


def prompts(count: int) -> list[list[int]]:
    """Return ``count`` prompts of 20 to 60 random tokens, like E2E's."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 61, (count,), generator=generator).tolist()
    return [torch.randint(5, 261, (length,), generator=generator).tolist() for length in lengths]


def decoder(device: torch.device) -> PreTrainedModel:
    """Return GPT-2's architecture with random weights."""
    torch.manual_seed(0)
    small = {"n_embd": 384, "n_layer": 6, "n_head": 12} if device.type == "cpu" else {}
    return GPT2LMHeadModel(GPT2Config(vocab_size=8192, **small)).eval().to(device)  # pyrefly: ignore[bad-argument-type]


def lora() -> Method:
    """Return LoRA on the attention layers."""
    return compose(["task=restaurants", "model=tiny_gpt2", "method=lora", "protocol=fair", f"rank={RANK}"]).method


if __name__ == "__main__":
    start(main, __doc__, existing_folder, whole_number)
