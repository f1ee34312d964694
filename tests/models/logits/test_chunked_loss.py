"""The loss in chunks of tokens, compared with PyTorch's loss of all logits."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Cache, Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import IGNORED, parts, targets
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.models.caches import NoCache
from rosa_bench.models.logits.chunked_loss import has_plain_logits, use_chunked_loss
from rosa_bench.models.logits.cross_entropy import Kernel, chunked_cross_entropy
from rosa_bench.models.logits.kept_logits import keep_logits_by_row
from rosa_bench.training.cuda_graphs import detect_host_sync, replaying
from rosa_bench.training.loop import backward

Tiny = Callable[..., PreTrainedModel]
Compose = Callable[..., RunConfig]
MODELS = ("tiny_gpt2", "tiny_llama")
VOCAB_SIZE, WIDTH, TOKENS = 37, 8, 29
HEADS = ("frozen", "trained", "bias", "low rank")


def head(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Linear(WIDTH, VOCAB_SIZE, bias=kind == "bias").to(dtype)
    if kind != "low rank":
        return plain.requires_grad_(kind != "frozen")
    adapted = LowRankLinear(plain, 2, scale=1.5)
    nn.init.normal_(adapted.a)
    nn.init.normal_(adapted.b)
    return adapted


def tokens(dtype: torch.dtype = torch.float64, *, ignored: bool = True) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(VOCAB_SIZE, (TOKENS,), generator=generator)
    if ignored:
        labels[torch.randperm(TOKENS, generator=generator)[:11]] = IGNORED
    return hidden, labels


def loss_and_gradients(loss: Tensor, hidden: Tensor, layer: nn.Module) -> list[Tensor]:
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return [loss.detach(), *torch.autograd.grad(3 * loss, [hidden, *trained])]  # of a sum with other terms


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_loss_and_gradients_are_pytorchs(kind: str, ignored: bool, chunk: int) -> None:
    layer, (hidden, labels) = head(kind), tokens(ignored=ignored)
    found = chunked_cross_entropy(layer, hidden, labels, vocab_size=VOCAB_SIZE, kernel=Kernel(), chunk=chunk)
    wanted = cross_entropy(layer(hidden), labels)
    for one, other in zip(*(loss_and_gradients(it, hidden, layer) for it in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    with torch.inference_mode():
        evaluated = chunked_cross_entropy(layer, hidden, labels, vocab_size=VOCAB_SIZE, kernel=Kernel(), chunk=chunk)
    torch.testing.assert_close(evaluated, wanted.detach(), rtol=1e-12, atol=0)


def test_the_kernel_gives_ignored_tokens_no_gradient() -> None:
    """On a CPU they are left out before, on a GPU they are not."""
    (hidden, labels), layer = tokens(), head("frozen")
    logits = layer(hidden).detach().requires_grad_()
    loss, gradient = Kernel().forward(logits.detach(), labels)
    wanted = cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, logits)[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", HEADS)
def test_under_autocast_the_softmax_is_as_precise_as_the_plain_loss(kind: str) -> None:
    layer, (hidden, labels) = head(kind, torch.float32), tokens(torch.float32)
    exact = cross_entropy(copy.deepcopy(layer).double()(hidden.double()), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked_cross_entropy(layer, hidden, labels, vocab_size=VOCAB_SIZE, kernel=Kernel(), chunk=5)
        plain = cross_entropy(layer(hidden).float(), labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=0)  # the same bfloat16 logits, so far closer than 1e-3
    assert (found - exact).abs() > 1e-6 * exact
    for one, other in zip(*(loss_and_gradients(it, hidden, layer) for it in (found, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 * float(other.abs().max()))


def test_without_labels_the_loss_is_nan_like_pytorchs() -> None:
    hidden, labels = tokens()
    nothing = torch.full_like(labels, IGNORED)
    assert chunked_cross_entropy(head("trained"), hidden, nothing, vocab_size=VOCAB_SIZE, kernel=Kernel()).isnan()
    with torch.no_grad():
        assert chunked_cross_entropy(head("trained"), hidden, nothing, vocab_size=VOCAB_SIZE, kernel=Kernel()).isnan()


class Largest(TorchDispatchMode):
    """Watches the tensors that operations make: the most elements of one with ``words`` columns."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.rows = words, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor) and tensor.ndim == 2 and tensor.shape[-1] == self.words:
                self.rows = max(self.rows, tensor.numel() // self.words)
        return made


@pytest.mark.parametrize("training", [False, True])
def test_only_a_chunk_of_logits_exists_at_once(training: bool) -> None:
    layer, (hidden, labels) = head("frozen"), tokens(ignored=False)
    with torch.set_grad_enabled(training), Largest(VOCAB_SIZE) as seen:
        loss = chunked_cross_entropy(layer, hidden, labels, vocab_size=VOCAB_SIZE, kernel=Kernel(), chunk=10)
        if training:
            loss.backward()
    assert WIDTH < seen.rows <= 10
    with Largest(VOCAB_SIZE) as seen:
        cross_entropy(layer(hidden), labels)
    assert seen.rows == TOKENS  # so the watcher sees them


# In a model


def batch(*, kept: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(5, 261, (5, 12), generator=torch.Generator().manual_seed(2))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[:, :3] = labels[1, 8:] = IGNORED
    mask[1, 8:] = 0
    if not kept:
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}
    places = torch.tensor([[1], [4], [8], [0], [7]]) + torch.arange(4)
    return {"input_ids": ids, "labels": ids.gather(1, places), "logits_to_keep": places}


def step(model: nn.Module, inputs: dict[str, Tensor], accumulate: int = 1) -> list[Tensor]:
    """Return the loss and the gradients of a training step, or the loss of an evaluation."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)  # of dropout
    if not model.training:
        with torch.inference_mode():
            return [model(**inputs).loss]
    with plain_precision():
        loss = backward(model, inputs, plain_precision, accumulate=accumulate)
    return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy with the library's own loss."""
    copied = copy.deepcopy(model)
    del copied.forward  # uncovers the class's own method
    return copied


@contextmanager
def plain_precision() -> Iterator[None]:
    yield


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["ft", "lora", "rosa"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_same_loss_and_gradients(
    tiny_model: Tiny, compose: Compose, name: str, method: str, training: bool
) -> None:
    """Under ``paper`` the output layer is adapted too; FT trains it, tied to the input embedding."""
    model = tiny_model(name)
    compose("task=restaurants", f"model={name}", f"method={method}", "rank=2").method.attach(model)
    reference = plain(model.train(training))
    assert keep_logits_by_row(reference)
    for kept in (False, True):
        for accumulate in (1, 2):
            wanted = step(reference, batch(kept=kept), accumulate)
            for one, other in zip(step(model, batch(kept=kept), accumulate), wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    model.eval()
    torch.testing.assert_close(model(**batch()).logits, reference.eval()(**batch()).logits, rtol=1e-4, atol=1e-5)
    assert model(input_ids=batch()["input_ids"]).logits.shape == (5, 12, 261)


def test_parts_of_a_batch_are_weighted_by_their_labels(tiny_model: Tiny) -> None:
    model = tiny_model("tiny_llama")
    whole = model(**batch()).loss
    shares = [model(**part).loss * targets(part) / targets(batch()) for part in parts(batch(), 3)]
    torch.testing.assert_close(torch.stack(shares).sum(), whole)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_keys_are_copied_and_no_mask_is_made_needlessly(tiny_model: Tiny, name: str, padded: bool) -> None:
    model, seen = tiny_model(name), []
    given = batch() if padded else {name: batch()[name] for name in ("input_ids", "labels")}

    def look(_block: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
        seen.extend([*arguments, *options.values()])

    transformer_blocks(model)[0].register_forward_pre_hook(look, with_kwargs=True)
    model(**given)
    assert {type(it) for it in seen if isinstance(it, Cache)} == {NoCache}
    masks = [it for it in seen if isinstance(it, Tensor) and it.ndim == 4]
    assert bool(masks) is padded


def test_a_watched_head_sees_whole_batches(tiny_model: Tiny) -> None:
    """ROSA's gradient directions come from a hook, which must not see a part of the batch only."""
    model = tiny_model("tiny_llama")
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, output: seen.append(output))  # pyrefly: ignore[missing-attribute]
    model(**batch())
    assert [it.shape for it in seen] == [(5, 12, 261)]
    hook.remove()


def test_a_model_that_changes_its_logits_is_left_alone() -> None:
    config = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    assert not use_chunked_loss(model)
    assert "forward" not in vars(model)


def test_a_model_with_a_loss_of_its_own_is_left_alone(tiny_model: Tiny) -> None:
    model = plain(tiny_model("tiny_llama"))
    assert has_plain_logits(model)
    model.loss_function = lambda **_: torch.zeros(())
    assert not has_plain_logits(model)


def test_the_saved_model_is_a_plain_one(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model("tiny_llama")
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [name for name, _ in loaded.named_modules()] == [name for name, _ in model.named_modules()]
    assert loaded(**batch()).logits is not None
    torch.testing.assert_close(loaded(**batch()).loss, model.eval()(**batch()).loss)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning")  # in the thread of the backward pass
@pytest.mark.parametrize("method", ["ft", "lora"])
def test_on_a_gpu_a_captured_step_has_the_same_losses(tiny_model: Tiny, compose: Compose, method: str) -> None:
    gpu = torch.device("cuda")
    model = tiny_model("tiny_llama").to(gpu)  # pyrefly: ignore[bad-argument-type]
    compose("task=restaurants", "model=tiny_llama", f"method={method}", "rank=2").method.attach(model)
    inputs = {name: tensor.to(gpu) for name, tensor in batch().items()}
    wanted = step(plain(model), inputs)
    for one, other in zip(step(model, inputs), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with detect_host_sync() as waits:
        model(**inputs).loss.backward()
    assert not waits
    with replaying(gpu, "always") as replay:
        replayed = replay(lambda given: backward(model, given, plain_precision))
        losses = [replayed(inputs) for _ in range(3)]
    for loss in losses:
        torch.testing.assert_close(loss, wanted[0], rtol=1e-5, atol=0)
