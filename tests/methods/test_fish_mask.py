"""FISH mask: the Fisher information by brute force, and training against full fine-tuning with masked gradients."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.data.batches import IGNORED
from rosa_bench.layers.weights.fisher import fisher_information, single_rows, with_drawn_labels
from rosa_bench.layers.weights.parametrised import formed
from rosa_bench.methods.fish_mask import FishMask
from rosa_bench.system.errors import UserError

MODELS = ("tiny_roberta", "tiny_gpt2", "tiny_llama")
Batch = dict[str, Tensor]


@pytest.fixture
def method(compose: Callable[..., RunConfig]) -> Callable[..., FishMask]:
    """``method("tiny_gpt2", density=0.1)``."""

    def make(model: str, **changes: Any) -> FishMask:
        task = "grammar" if model == "tiny_roberta" else "restaurants"
        found: Any = compose(f"task={task}", f"model={model}", "method=fish_mask", "protocol=paper").method
        return replace(found, **changes)

    return make


def batches(model: str, *, regression: bool = False) -> list[Batch]:
    """Two padded batches. A text's labels are all its tokens in the first, and leave out two in the second."""
    made = []
    for seed in (0, 1):
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, 200, (3, 7), generator=draw)
        mask = (torch.arange(7) < torch.tensor([[7], [4], [6]])).long()
        if model == "tiny_roberta":
            labels = torch.tensor([0.3, -1.0, 2.0]) if regression else torch.tensor([0, 1, 1])
        else:
            labels = torch.where((mask == 1) & (torch.arange(7) >= 2 * seed), ids, IGNORED)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def by_brute_force(model: nn.Module, weights: list[nn.Parameter], given: list[Batch]) -> list[Tensor]:
    """The empirical Fisher information from log-probabilities that are written out, one example at a time."""
    sums, count = [torch.zeros_like(weight) for weight in weights], 0
    for batch in given:
        for row in range(len(batch["labels"])):
            inputs = {name: batch[name][row : row + 1] for name in ("input_ids", "attention_mask")}
            logits, labels = model.eval()(**inputs).logits, batch["labels"][row]
            if labels.is_floating_point():
                total = -0.5 * (logits.squeeze() - labels).square()  # of a normal distribution with variance 1
            elif labels.ndim == 0:
                total = logits[0].log_softmax(-1)[labels]
            else:
                each = logits[0].log_softmax(-1)
                total = sum(each[at - 1, labels[at]] for at in range(1, len(labels)) if labels[at] != IGNORED)
            gradients = torch.autograd.grad(total, weights, allow_unused=True)  # pyrefly: ignore[no-matching-overload]
            for place, gradient in enumerate(gradients):
                sums[place] += 0 if gradient is None else gradient**2
            count += 1
    return [total / count for total in sums]


@pytest.mark.parametrize(("model", "outputs"), [*((model, 2) for model in MODELS), ("tiny_roberta", 1)])
def test_the_fisher_information_is_that_of_each_example_alone(
    tiny_model: Callable[..., PreTrainedModel], model: str, outputs: int
) -> None:
    net, given = tiny_model(model, num_outputs=outputs).double(), batches(model, regression=outputs == 1)
    given = [{name: t.double() if t.is_floating_point() else t for name, t in batch.items()} for batch in given]
    weights = list(net.parameters())
    found = fisher_information(net, weights, single_rows(iter(given), 100))
    for one, expected in zip(found, by_brute_force(net, weights, given), strict=True):
        # transformers computes the loss of a language model in float32.
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-20 + 1e-6 * expected.max().item())
    first = fisher_information(net, weights, single_rows(iter(given), 3))
    for one, expected in zip(first, by_brute_force(net, weights, given[:1]), strict=True):
        # transformers computes the loss of a language model in float32.
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-20 + 1e-6 * expected.max().item())


def test_the_fisher_information_leaves_no_trace(tiny_model: Callable[..., PreTrainedModel]) -> None:
    net = tiny_model("tiny_roberta").train()
    modes, state = [module.training for module in net.modules()], torch.get_rng_state()
    fisher_information(net, list(net.parameters()), single_rows(batches("tiny_roberta"), 4))
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_drawn_labels_have_the_models_own_frequencies(tiny_model: Callable[..., PreTrainedModel], model: str) -> None:
    net = tiny_model(model)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)  # so that no distribution is uniform
    count = 4000
    row = {name: tensor[:1].expand(count, *tensor.shape[1:]) for name, tensor in batches(model)[0].items()}
    drawn = with_drawn_labels(net, row, torch.Generator().manual_seed(0))["labels"]
    with torch.no_grad():
        logits = net(**{name: tensor[:1] for name, tensor in row.items()}).logits[0]
    if model == "tiny_roberta":
        pairs = [(drawn, logits)]
    else:
        assert torch.equal(drawn == IGNORED, row["labels"] == IGNORED)
        pairs = [(drawn[:, at], logits[at - 1]) for at in range(2, 7)]  # the logits at a token are those of the next
    for labels, own in pairs:
        expected = own.softmax(-1)
        found = labels.bincount(minlength=len(expected)) / count
        assert (found - expected).abs().max() < 4 * (expected * (1 - expected) / count).sqrt().max()


def test_drawn_numbers_are_normal_around_the_output(tiny_model: Callable[..., PreTrainedModel]) -> None:
    net = tiny_model("tiny_roberta", num_outputs=1)
    one = batches("tiny_roberta", regression=True)[0]
    row = {name: tensor[:1].expand(4000, *tensor.shape[1:]) for name, tensor in one.items()}
    drawn = with_drawn_labels(net, row, torch.Generator().manual_seed(0))["labels"]
    with torch.no_grad():
        output = net(**{name: tensor[:1] for name, tensor in one.items()}).logits.item()
    assert drawn.mean().item() == pytest.approx(output, abs=0.06)
    assert drawn.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("model", MODELS)
def test_training_is_full_fine_tuning_with_masked_gradients(
    method: Callable[..., FishMask], tiny_model: Callable[..., PreTrainedModel], model: str
) -> None:
    chosen, given = method(model, density=0.05), batches(model)
    net = chosen.attach(tiny_model(model).double(), given)
    whole = tiny_model(model).double()
    named = dict(whole.named_parameters())
    head = {name for name in named if name.startswith("classifier")}
    fisher = by_brute_force(whole, list(named.values()), given)
    bound = torch.cat([f.flatten() for f, name in zip(fisher, named, strict=True) if name not in head]).sort().values
    masks = {name: f > bound[-round(0.05 * len(bound)) - 1] for name, f in zip(named, fisher, strict=True)}
    sparse = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-2, weight_decay=0)
    dense = torch.optim.AdamW([p for name, p in named.items() if name not in head], 1e-2, weight_decay=0)
    for step in range(4):
        for one, optimizer in ((net, sparse), (whole, dense)):
            optimizer.zero_grad()
            one(**given[step % 2]).loss.backward()
        for name, parameter in named.items():
            assert parameter.grad is not None
            parameter.grad.mul_(masks[name])
        sparse.step()
        dense.step()
    copied = copy.deepcopy(net)
    assert chosen.merge(net)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter, named[name], rtol=0, atol=1e-6, msg=name)
    assert torch.equal(copied(**given[0]).logits, net(**given[0]).logits)  # merging one leaves its copies alone


def test_only_chosen_entries_have_gradients_and_moments(
    method: Callable[..., FishMask], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    net = method("tiny_llama", density=0.01).attach(tiny_model("tiny_llama"), batches("tiny_llama"))
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    net(**batches("tiny_llama")[0]).loss.backward()
    optimizer.step()
    count = round(0.01 * sum(frozen.numel() for frozen in tiny_model("tiny_llama").parameters()))
    assert sum(p.grad.numel() for p in net.parameters() if p.grad is not None) == count
    assert sum(t.numel() for state in optimizer.state.values() for t in state.values() if t.ndim) == 2 * count
    assert {form.indices.numel() for _, form in formed(net)} == {form.values.numel() for _, form in formed(net)}  # pyrefly: ignore[not-callable]


def test_a_shared_weight_is_formed_once(
    method: Callable[..., FishMask], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    chosen = method("tiny_llama", density=0.2)
    net: Any = chosen.attach(tiny_model("tiny_llama"), batches("tiny_llama"))
    embedding, output = net.get_input_embeddings(), net.get_output_embeddings()
    assert embedding.parametrizations.weight[0] is output.parametrizations.weight[0]
    with torch.no_grad():
        embedding.parametrizations.weight[0].values.add_(1)
    assert torch.equal(embedding.weight, output.weight)
    assert chosen.merge(net)
    assert embedding.weight is output.weight


def test_the_labels_of_the_mask_are_given_or_drawn(
    method: Callable[..., FishMask], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    every = batches("tiny_roberta")

    def places(*, frozen: bool = False, rows: list[Batch] = every, **changes: Any) -> list[int]:
        plain = tiny_model("tiny_roberta").requires_grad_(not frozen)
        net = method("tiny_roberta", **changes).attach(plain, rows)
        return [place for _, form in formed(net) for place in form.indices.tolist()]  # pyrefly: ignore[not-callable]

    assert places() == places(seed=1) == places(frozen=True)
    assert places(labels="drawn") == places(labels="drawn")
    assert len({tuple(places(labels="drawn", seed=seed)) for seed in range(4)}) > 1
    first = [{name: tensor[:2] for name, tensor in every[0].items()}]
    assert places(samples=2) == places(rows=first) != places()


@pytest.mark.parametrize(("density", "count"), [(1.0, 100), (0.058, 6), (1e-9, 1)])
def test_the_density_is_rounded_and_something_always_trains(
    method: Callable[..., FishMask], density: float, count: int
) -> None:
    assert method("tiny_roberta", density=density).count(100) == count


def test_without_rows_there_is_no_mask(
    method: Callable[..., FishMask], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    with pytest.raises(UserError, match="method=fish_mask cannot choose weights: there are no training rows"):
        method("tiny_roberta").attach(tiny_model("tiny_roberta"))


@pytest.mark.parametrize("name", ["fish_mask", "diff_pruning"])
def test_a_model_that_is_all_head_is_refused(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], name: str
) -> None:
    found: Any = compose("task=grammar", "model=tiny_roberta", f"method={name}").method
    everything = replace(found, head="roberta|classifier")
    with pytest.raises(UserError, match=f"method={name} changes weights outside the head, and this model has none"):
        everything.attach(tiny_model("tiny_roberta"), batches("tiny_roberta"))
