"""Run by test_matrix.py: load each saved model of a folder in this process, and write its answers beside it.

python answers.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rosa_bench.config.composing.parse import parse
from rosa_bench.config.identity.defaults import composed


def answer(folder: Path) -> None:
    """Write the logits of the model in a folder for the batch there."""
    job = json.loads((folder / "job.json").read_text())
    rank, *chosen = (override.partition("=")[::2] for override in reversed(job["overrides"]))
    method = parse({**composed(dict(chosen)), rank[0]: int(rank[1])}).method
    encoder = "task=grammar" in job["overrides"]
    kind = AutoModelForSequenceClassification if encoder else AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32)
    batch = load_file(folder / "batch.safetensors")
    if job["attach"]:
        model = method.attach(model, iter([batch]))
        kept = load_file(folder / "state.safetensors")
        with torch.no_grad():
            for name, tensor in method.state(model).items():
                tensor.copy_(kept[name])
    with torch.no_grad():
        save_file({"logits": model.eval()(**batch).logits}, folder / "answers.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sorted(Path(sys.argv[1]).iterdir()):
        answer(each)
