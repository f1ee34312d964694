import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.adapter import Adapter
from rosa_bench.layers.fused.stacked import LARGEST, materialised
from rosa_bench.layers.low_rank import LowRankLinear, low_rank_layers
from rosa_bench.layers.structure.linear import StackedLinear
from rosa_bench.layers.structure.surgery import restore_linears
from rosa_bench.methods.rosa import Rosa

WIDE, NARROW, RANK = 8, 6, 2


class Net(nn.Module):
    """Low-rank layers of three shapes that differ in type, bias and scale. All but ``alone`` are stacked.

    A narrow input passes through ``up``, the square layers and ``down``. Each square layer adds to its input.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        made = {
            "up": [Conv1D(WIDE, NARROW), nn.Linear(NARROW, WIDE)],
            "square": [nn.Linear(WIDE, WIDE), nn.Linear(WIDE, WIDE, bias=False), Conv1D(WIDE, WIDE)],
            "down": [nn.Linear(WIDE, NARROW, bias=False), nn.Linear(WIDE, NARROW), Conv1D(NARROW, WIDE)],
        }
        for name, layers in made.items():
            setattr(self, name, nn.ModuleList(LowRankLinear(plain, RANK, scale=0.7) for plain in layers))
        self.unscaled = nn.ModuleList(LowRankLinear(nn.Linear(WIDE, WIDE), RANK) for _ in range(2))
        self.alone = LowRankLinear(nn.Linear(NARROW, NARROW), RANK, scale=0.7)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)

    def forward(self, x: Tensor) -> Tensor:
        up, square, down, unscaled = self.up, self.square, self.down, self.unscaled
        assert all(isinstance(part, nn.ModuleList) for part in (up, square, down, unscaled))
        y = sum(layer(x) for layer in up)  # pyrefly: ignore[not-callable, not-iterable]
        for layer in (*square, *unscaled):  # pyrefly: ignore[not-iterable]
            y = y + layer(y).tanh()
        return self.alone(sum(layer(y) for layer in down))  # pyrefly: ignore[not-callable, not-iterable]


STACKS = [2, 3, 3, 2]  # ordered by each stack's first layer in the model: up, square, down, unscaled


def names_of(model: nn.Module, layers: list[LowRankLinear]) -> list[str]:
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(layer)] for layer in layers]


@pytest.fixture
def net() -> Net:
    return Net()


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(5, 3, NARROW, generator=torch.Generator().manual_seed(9), dtype=torch.float32)
    return x.to(dtype).requires_grad_()


def gradients(model: nn.Module, x: Tensor, context: Any = nullcontext) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the outputs, and gradients of their weighted sum with respect to the input and all parameters."""
    with context():
        y = model(x)
    weights = torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype)
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(y, [x, *model.parameters()], weights)
    return y.detach(), dict(zip(["input", *names], found, strict=True))


def assert_near(found: Tensor | None, expected: Tensor, name: str = "") -> None:
    """Check equality in norm, up to rounding in a different order."""
    assert found is not None and found.dtype == expected.dtype and found.shape == expected.shape, name
    error = torch.linalg.vector_norm(found - expected)
    assert error <= 500 * torch.finfo(expected.dtype).eps * torch.linalg.vector_norm(expected), name


def merged(model: nn.Module) -> list[Tensor]:
    return [layer.merged_weight().detach().clone() for layer in low_rank_layers(model)]


def formed(model: nn.Module) -> list[Tensor]:
    return [layer.materialised for layer in low_rank_layers(model) if layer.materialised is not None]


@contextmanager
def seen_formed(model: nn.Module) -> Iterator[list[set[str]]]:
    """Yield, for each pass through the model, the names of layers whose weight was formed for them."""
    passes: list[set[str]] = []
    hooks = [model.register_forward_pre_hook(lambda *_: passes.append(set()))]
    for name, layer in model.named_modules():
        if isinstance(layer, LowRankLinear):

            def note(layer: Any, *_: Any, name: str = name) -> None:
                if layer.materialised is not None:
                    passes[-1].add(name)

            hooks.append(layer.register_forward_pre_hook(note))
    yield passes
    for hook in hooks:
        hook.remove()


# The function


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_equal_those_of_separate_layers(net: Net, dtype: torch.dtype) -> None:
    net.to(dtype)
    x = inputs(dtype)
    expected, wanted = gradients(net, x)
    with materialised(net) as stacks, seen_formed(net) as passes:
        found, given = gradients(net, x)
    assert [len(stack.layers) for stack in stacks] == STACKS
    assert passes == [{name for stack in stacks for name in names_of(net, stack.layers)}]
    torch.testing.assert_close(found, expected)
    assert given.keys() == wanted.keys()
    for name in wanted:
        assert wanted[name].any()
        assert_near(given[name], wanted[name], name)


def test_gradients_against_finite_differences() -> None:
    net = Net().double()
    tensors = [net.get_parameter(f"square.{number}.{factor}") for number in range(3) for factor in ("a", "b")]
    with materialised(net):

        def function(*_: Tensor) -> Tensor:
            return net(x)

        x = inputs(torch.float64)
        assert torch.autograd.gradcheck(function, (x, *tensors))


def test_gradients_accumulate_over_passes(net: Net) -> None:
    first, second = inputs(), inputs().detach() * 2 + 1
    _, one = gradients(net, first)
    _, other = gradients(net, second.requires_grad_())
    with materialised(net):
        for x in (first, second):
            y = net(x)
            y.backward(torch.linspace(-1, 2, y.numel()).view_as(y))
    for name, parameter in net.named_parameters():
        assert_near(parameter.grad, one[name] + other[name], name)


@pytest.mark.parametrize("frozen", ["a", "b", "bias", "up", "square.1"])
def test_frozen_parameters_get_no_gradient_and_others_keep_theirs(net: Net, frozen: str) -> None:
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not (name.endswith(frozen) or name.startswith(frozen)))

    def backward() -> dict[str, Tensor | None]:
        net.zero_grad()
        net(inputs()).square().sum().backward()
        return {name: parameter.grad for name, parameter in net.named_parameters()}

    expected = backward()
    with materialised(net):
        found = backward()
    assert {name for name, gradient in found.items() if gradient is None} == {
        name for name, parameter in net.named_parameters() if not parameter.requires_grad
    }
    for name, gradient in expected.items():
        if gradient is not None:
            assert_near(found[name], gradient, name)


def test_outputs_are_the_same_without_gradients(net: Net) -> None:
    with torch.inference_mode():
        expected = net(inputs())
        with materialised(net):
            torch.testing.assert_close(net(inputs()), expected)
    # Passes with and without gradients can alternate, as in training and evaluation.
    with materialised(net):
        with torch.inference_mode():
            net(inputs())
        net(inputs()).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_autocast_outputs_equal_those_of_plain_layers(net: Net) -> None:
    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    x = inputs()
    exact, wanted = gradients(net, x)
    plain = copy.deepcopy(net)
    restore_linears(plain)
    with autocast():
        expected = plain(x)
    with materialised(net):
        found, given = gradients(net, x, autocast)
    assert found.dtype == torch.bfloat16
    # Each layer then acts as a plain one, with a weight formed in float32 and cast once.
    torch.testing.assert_close(
        found, expected, rtol=0, atol=float(4 * torch.finfo(torch.bfloat16).eps * exact.abs().max())
    )
    for name, gradient in given.items():
        assert gradient.dtype == torch.float32
        error = torch.linalg.vector_norm(gradient - wanted[name]) / torch.linalg.vector_norm(wanted[name])
        assert error < 10 * torch.finfo(torch.bfloat16).eps, name  # eight layers, and each rounds


def test_autocast_forms_each_weight_in_its_own_type_and_casts_it_once(net: Net) -> None:
    weights: dict[str, Tensor] = {}
    with materialised(net):
        for name, layer in net.named_modules():
            if isinstance(layer, LowRankLinear):

                def note(layer: Any, *_: Any, name: str = name) -> None:
                    if layer.materialised is not None:
                        weights[name] = layer.materialised

                layer.register_forward_pre_hook(note)
        with torch.autocast("cpu", torch.bfloat16):
            net(inputs())
    assert len(weights) == sum(STACKS)
    for name, weight in weights.items():
        layer = net.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        assert weight.dtype == torch.bfloat16
        # float32 rounding is 2^16 times finer, so it may change at most the last bit.
        torch.testing.assert_close(weight.float(), layer.merged_weight(), rtol=torch.finfo(torch.bfloat16).eps, atol=0)


# The parameters


def test_parameters_and_buffers_are_the_same_objects_with_the_same_values(net: Net) -> None:
    before = {name: (tensor, tensor.detach().clone()) for name, tensor in net.state_dict(keep_vars=True).items()}
    with materialised(net):
        inside = net.state_dict(keep_vars=True)
    after = net.state_dict(keep_vars=True)
    for state in (inside, after):
        assert list(state) == list(before)
        for name, tensor in state.items():
            same, values = before[name]
            assert tensor is same
            assert torch.equal(tensor, values)
            assert tensor.is_contiguous()


def step(net: nn.Module) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(inputs()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def copy_in(net: nn.Module) -> None:
    other = Net(seed=1).state_dict()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            tensor.copy_(other[name])


def load(net: nn.Module) -> None:
    net.load_state_dict(Net(seed=1).state_dict())


def resample(net: nn.Module) -> None:
    method = Rosa(
        name="rosa", title="ROSA", seed=0, head="", default_lr={}, targets=".*", attention=".*", train_head=False,
        train_biases=True, rank=RANK, select="random", init="zero", resample_every=1, resample_unit="steps",
    )  # fmt: skip
    method.resample(net, 3)
    with torch.no_grad():
        for layer in low_rank_layers(net):
            layer.a.add_(0.1)  # `zero` leaves the function as it is, so only this shows the new directions


@pytest.mark.parametrize("write", [step, copy_in, load, resample])
def test_the_next_pass_sees_in_place_writes(net: Net, write: Callable[[nn.Module], None]) -> None:
    other = copy.deepcopy(net)
    write(other)
    x = inputs()
    expected, wanted = gradients(other, x)
    with materialised(net) as stacks:
        before = net(x).detach()
        write(net)
        found, given = gradients(net, x)
        for stack in stacks:
            for name in ("residual", "a", "b"):
                whole = getattr(stack, name)
                parts = [getattr(layer, name) for layer in stack.layers]
                assert [part.data_ptr() for part in parts] == [part.data_ptr() for part in whole]
                assert torch.equal(whole, torch.stack(parts))
    assert not torch.allclose(before, expected, atol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name in wanted:
        torch.testing.assert_close(given[name], wanted[name], rtol=1e-3, atol=1e-4)


def test_layers_with_a_fixed_b_are_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(LowRankLinear(nn.Linear(WIDE, WIDE), RANK, train_b=number < 2) for number in range(4)))
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_()
    x = torch.randn(5, WIDE, requires_grad=True)
    expected, wanted = gradients(model, x)
    with materialised(model) as stacks:
        assert [len(stack.layers) for stack in stacks] == [2]
        assert all(layer.train_b for stack in stacks for layer in stack.layers)
        found, given = gradients(model, x)
    assert_near(found, expected)
    for name in wanted:
        assert_near(given[name], wanted[name], name)


def test_training_inside_and_outside_the_block_give_the_same_weights(net: Net) -> None:
    other = copy.deepcopy(net)

    def train(model: nn.Module) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
        for _ in range(5):
            model(inputs()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    train(other)
    with materialised(net):
        train(net)
    for one, two in zip(merged(net), merged(other), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


# After a pass and after the block


def test_no_weight_outlives_its_pass(net: Net) -> None:
    with materialised(net):
        assert not formed(net)
        y = net(inputs())
        assert not formed(net)
        y.sum().backward()
        assert not formed(net)
    assert not formed(net)


def test_no_weight_outlives_a_pass_that_fails(net: Net) -> None:
    expected = net(inputs()).detach()
    with materialised(net):
        hook = net.alone.register_forward_pre_hook(lambda *_: net.undefined)  # after all stacked layers
        with pytest.raises(AttributeError, match="undefined"):
            net(inputs())
        assert not formed(net)
        hook.remove()
        torch.testing.assert_close(net(inputs()), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_layers_form_their_own_weights_after_the_block(net: Net, fails: bool) -> None:
    expected = net(inputs()).detach()
    with pytest.raises(KeyError) if fails else nullcontext(), materialised(net):
        net(inputs())
        if fails:
            raise KeyError
    assert not net._forward_hooks and not net._forward_pre_hooks
    with seen_formed(net) as passes:
        torch.testing.assert_close(net(inputs()), expected)
    assert passes == [set()] and not formed(net)


def test_the_block_can_be_entered_again(net: Net) -> None:
    expected, wanted = gradients(net, inputs())
    for _ in range(2):
        with materialised(net) as stacks:
            found, given = gradients(net, inputs())
        assert [len(stack.layers) for stack in stacks] == STACKS
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(given["square.0.a"], wanted["square.0.a"])


# Which layers


def test_larger_layers_are_not_stacked(net: Net) -> None:
    address = net.get_parameter("square.0.a").data_ptr()
    with materialised(net, largest=WIDE * WIDE - 1) as stacks, seen_formed(net) as passes:
        net(inputs())
    assert [stack.layers[0].shape for stack in stacks] == [(WIDE, NARROW), (NARROW, WIDE)]
    assert passes == [{"up.0", "up.1", "down.0", "down.1", "down.2"}]
    assert net.get_parameter("square.0.a").data_ptr() == address
    with materialised(net, largest=WIDE * WIDE) as stacks:
        assert [len(stack.layers) for stack in stacks] == STACKS
    with materialised(net, largest=0) as stacks:
        assert not stacks


def test_the_default_size_limit_is_two_to_the_twentieth() -> None:
    net = nn.Sequential(
        *(LowRankLinear(nn.Linear(columns, 1024, bias=False), 1) for columns in (1024, 1024, 1025, 1025))
    )
    assert LARGEST == 1024 * 1024
    with materialised(net) as stacks:
        assert [stack.layers for stack in stacks] == [[net[0], net[1]]]


def test_single_layers_and_existing_stacks_are_not_stacked() -> None:
    stacked = [LowRankLinear(StackedLinear(torch.randn(3, NARROW, NARROW)), RANK) for _ in range(2)]
    tall, wide = LowRankLinear(nn.Linear(NARROW, WIDE), RANK), LowRankLinear(nn.Linear(WIDE, NARROW), RANK)
    others = {
        "rank": LowRankLinear(nn.Linear(NARROW, WIDE), 1),
        "scale": LowRankLinear(nn.Linear(NARROW, WIDE), RANK, scale=2.0),
    }
    double = LowRankLinear(nn.Linear(NARROW, WIDE).double(), RANK)
    model = nn.ModuleList([*stacked, tall, wide, *others.values(), double, nn.Linear(NARROW, WIDE)])
    tensors = [(tensor, tensor.data_ptr()) for tensor in (*model.parameters(), *model.buffers())]
    with materialised(model) as stacks:
        assert not stacks
        assert all(tensor.data_ptr() == address for tensor, address in tensors)
    both = nn.ModuleList([tall, LowRankLinear(nn.Linear(NARROW, WIDE), RANK), *others.values()])
    with materialised(both) as stacks:
        assert [stack.layers for stack in stacks] == [[tall, both[1]]]


def test_a_model_without_low_rank_layers_is_unchanged() -> None:
    model = nn.Linear(NARROW, WIDE)
    with materialised(model) as stacks:
        assert not stacks
        assert model(inputs()).shape == (5, 3, WIDE)


# Afterwards


def test_a_copy_of_the_model_is_independent(net: Net) -> None:
    with materialised(net):
        inside = copy.deepcopy(net)
    after = copy.deepcopy(net)
    expected = [weight.clone() for weight in merged(net)]
    for other in (inside, after):
        for one, two in zip(merged(other), expected, strict=True):
            assert torch.equal(one, two)
    step(after)
    with torch.no_grad():
        for tensor in inside.state_dict().values():
            tensor.fill_(3)
    for one, two in zip(merged(net), expected, strict=True):
        assert torch.equal(one, two)
    copied = merged(after)
    step(net)
    for one, two in zip(merged(after), copied, strict=True):
        assert torch.equal(one, two)


def test_merging_after_the_block_keeps_the_function(net: Net) -> None:
    untouched = copy.deepcopy(net)
    with materialised(net):
        expected = net(inputs()).detach()
    restore_linears(net)
    restore_linears(untouched)
    assert not any(isinstance(module, Adapter) for module in net.modules())
    torch.testing.assert_close(net(inputs()), expected)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, untouched.state_dict()[name])


def test_merging_a_copy_inside_the_block_leaves_the_stack_unchanged(net: Net) -> None:
    # The best epoch's model is made from a copy like this while training continues.
    with materialised(net):
        expected = net(inputs()).detach()
        best = copy.deepcopy(net)
        restore_linears(best)
        torch.testing.assert_close(best(inputs()), expected)
        torch.testing.assert_close(net(inputs()), expected)


def test_a_checkpoint_of_layers_that_share_memory_is_complete(net: Net, tmp_path: Path) -> None:
    with materialised(net):
        step(net)
        state = net.state_dict()
        assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) < len(state)
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "tensors.safetensors")
        loaded = load_file(tmp_path / "tensors.safetensors")
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        expected = net(inputs()).detach()
    fresh = Net(seed=1)
    with materialised(fresh):
        fresh.load_state_dict(loaded)
        torch.testing.assert_close(fresh(inputs()), expected)


# Whole models


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("method", ["lora", "rosa"])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_roberta", "tiny_gpt2", "tiny_llama"])
def test_a_model_learns_the_same_with_stacked_layers(
    compose: Callable[..., RunConfig],
    tiny_model: Callable[..., PreTrainedModel],
    learn: Callable[..., tuple[list[float], dict[str, Tensor]]],
    *,
    name: str,
    method: str,
    targets: str,
) -> None:
    task = "grammar" if name in {"tiny_bert", "tiny_roberta"} else "restaurants"
    chosen: Any = compose(
        f"task={task}", f"model={name}", f"method={method}", f"method.targets={targets}", "rank=2"
    ).method
    ids = torch.randint(5, 261, (3, 9), generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 1]) if task == "grammar" else ids
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}

    plain, stacked = (tiny_model(name).double() for _ in range(2))
    for model in (plain, stacked):
        chosen.attach(model)
    losses, gradients = learn(plain, chosen, batch)
    with materialised(stacked) as stacks:
        found_losses, found = learn(stacked, chosen, batch)
    assert stacks
    assert found_losses == pytest.approx(losses, rel=1e-6)
    for key, gradient in gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-9)
