"""Train ROSA with PEFT, save it as an ordinary LoRA adapter, and load that in every way. Prints what changes.

    python docs/examples/peft_round_trip.py            # three tiny models with random weights
    python docs/examples/peft_round_trip.py FOLDER ... # or folders and hub ids of language models and encoders

A column is the largest difference of logits at that step. "resumed" compares a training that was saved and loaded in
the middle with one that was not. "without us" is a fresh process that cannot import rosa_bench.
"""

import copy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from rosa_bench.integrations.peft import RosaConfig

STEPS, EVERY = 20, 4  # in the middle it is saved and loaded
SMALL: dict[str, Any] = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
WIDE: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY: dict[str, PreTrainedConfig] = {
    "tiny RoBERTa": RobertaConfig(**SMALL, **WIDE),
    "tiny GPT-2": GPT2Config(**SMALL, n_embd=48, n_layer=2, n_head=4, n_positions=64),
    "tiny Llama": LlamaConfig(**SMALL, **WIDE, num_key_value_heads=2),
}
COLUMNS = ("attached", "trained", "PEFT's LoRA", "without us", "resumed", "disabled", "merged", "merged, reloaded")


def is_language_model(config: PreTrainedConfig) -> bool:
    """Return whether the model predicts the next token; the others get a head for two classes."""
    return config.model_type in {"gpt2", "llama"}


def make(config: PreTrainedConfig, source: str | None) -> PreTrainedModel:
    """Load the model in float32, or draw it."""
    kind: Any = AutoModelForCausalLM if is_language_model(config) else AutoModelForSequenceClassification
    torch.manual_seed(0)
    found = kind.from_config(config) if source is None else kind.from_pretrained(source, dtype=torch.float32)
    return found.eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    """Return the answers to the same tokens, without dropout."""
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def train(model: Any, optimizer: torch.optim.Optimizer, first: int, last: int, size: int) -> None:
    """An ordinary training loop, with one line more."""
    model.train()
    for step in range(first, last):
        model.resample_if_due(step, optimizer)
        torch.manual_seed(step)
        ids = torch.randint(3, size, (4, 12))
        labels = ids if is_language_model(model.config) else torch.tensor([0, 1, 1, 0])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    """Return AdamW for what trains."""
    return torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)


def fresh_process(base: Path, adapter: Path, ids: Tensor, folder: Path) -> Tensor:
    """Let a new process without rosa_bench load the adapter, and return its logits."""
    save_file({"ids": ids}, folder / "ids.safetensors")
    script = Path(__file__).with_name("lora_without_rosa_bench.py")
    files = [base, adapter, folder / "ids.safetensors", folder / "logits.safetensors"]
    subprocess.run([sys.executable, str(script), *map(str, files)], check=True)
    return load_file(folder / "logits.safetensors")["logits"]


def round_trip(config: PreTrainedConfig, source: str | None, folder: Path) -> dict[str, float]:
    """Go the whole way with one model, and return the largest difference of logits at each step."""
    language = is_language_model(config)
    size = min(config.vocab_size, 1000)
    ids = torch.randint(3, size, (4, 12), generator=torch.Generator().manual_seed(1))
    base = make(config, source)
    plain = logits(base, ids)
    base.save_pretrained(folder / "base")

    settings = RosaConfig(r=4, resample_every=EVERY, task_type="CAUSAL_LM" if language else "SEQ_CLS")
    model = get_peft_model(base, settings)
    found = {"attached": difference(logits(model, ids), plain)}
    optimizer = optimizer_of(model)
    train(model, optimizer, 0, STEPS // 2, size)
    model.save_pretrained(str(folder / "half"))
    halfway = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, STEPS // 2, STEPS, size)
    model.save_pretrained(str(folder / "adapter"))
    trained = logits(model, ids)
    found["trained"] = difference(trained, plain)

    again = make(config, str(folder / "base"))
    found["PEFT's LoRA"] = difference(logits(PeftModel.from_pretrained(again, str(folder / "adapter")), ids), trained)
    found["without us"] = difference(fresh_process(folder / "base", folder / "adapter", ids, folder), trained)

    half = str(folder / "half")
    resumed = PeftModel.from_pretrained(
        make(config, str(folder / "base")), half, config=RosaConfig.from_pretrained(half), is_trainable=True
    )
    optimizer = optimizer_of(resumed)
    optimizer.load_state_dict(halfway)
    train(resumed, optimizer, STEPS // 2, STEPS, size)
    found["resumed"] = difference(logits(resumed, ids), trained)

    with model.disable_adapter():  # the head of an encoder trains beside the adapter, and PEFT switches it off too
        found["disabled"] = difference(logits(model, ids), plain)
    merged: Any = model.merge_and_unload()
    found["merged"] = difference(logits(merged, ids), trained)
    merged.save_pretrained(folder / "merged")
    found["merged, reloaded"] = difference(logits(make(config, str(folder / "merged")), ids), trained)
    return found


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest absolute difference."""
    return (one - other).abs().max().item()


def main(sources: list[str]) -> None:
    """Print one row for each model."""
    models: dict[str, tuple[PreTrainedConfig, str | None]] = {name: (config, None) for name, config in TINY.items()}
    if sources:
        models = {Path(source).name: (AutoConfig.from_pretrained(source), source) for source in sources}
    for name, (config, source) in models.items():
        with tempfile.TemporaryDirectory() as folder:
            found = round_trip(config, source, Path(folder))
        print(name)
        for column in COLUMNS:
            print(f"  {column:<18}{found[column]:.1e}")
        near = max(value for column, value in found.items() if column != "trained")
        assert found["resumed"] == 0, "a resumed training must end with the same bits"
        assert near <= 2e-3 * found["trained"], "the round trip has changed the model"


if __name__ == "__main__":
    main(sys.argv[1:])
