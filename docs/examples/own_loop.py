"""ROSA in a training loop of your own: attach, train with resamples, save, load, merge.

    python docs/examples/own_loop.py

Downloads nothing: a small GPT-2 with random weights learns a periodic sequence.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import rosa_bench

STEPS, PERIOD = 60, 20


def small_model() -> PreTrainedModel:
    """Return the same random model every time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", n_layer=2, n_embd=64, n_head=4, n_positions=64, vocab_size=32, bos_token_id=0, eos_token_id=0
    )
    return AutoModelForCausalLM.from_config(config)


def main() -> None:
    """Train, then load the saved adapter into a fresh copy of the model and merge it."""
    model = small_model()
    attached = rosa_bench.attach(
        model, "rosa", rank=8, targets="all-linear", resample_every=PERIOD, resample_unit="steps", rewarm_steps=3
    )
    print(attached)
    optimizer = attached.optimizer(lr=1e-2, weight_decay=0.0)
    tokens = torch.arange(48).remainder(16).repeat(4, 1)
    for step in range(STEPS):
        changed = attached.before_step(step, optimizer)  # merges the factors and draws new ones when that is due
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * attached.lr_factor(step)  # rises again after a resample
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if changed is not None or step in (0, STEPS - 1):
            print(f"step {step}: loss {loss.item():.3f}{', resampled' if changed else ''}")

    model.eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        trained = model(input_ids=tokens).logits
        attached.save(Path(folder) / "adapter")
        loaded = rosa_bench.load_adapter(small_model().eval(), Path(folder) / "adapter")
        assert torch.equal(loaded.model(input_ids=tokens).logits, trained)
        merged = loaded.merge()
        difference = (merged(input_ids=tokens).logits - trained).abs().max().item()
    print(f"largest difference of logits after merging: {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    main()
