import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.fused.joined import Joined, joined, sharing_inputs, unjoined_type
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.low_rank import LowRankLinear
from rosa_bench.layers.structure.linear import SplitLinear
from rosa_bench.layers.structure.surgery import restore_linears
from rosa_bench.models.base_dtype import store_in

SIZE = 6


class Gated(nn.Module):
    """Two layers with the same input, and one with their product."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = nn.Linear(SIZE, 8, bias=bias), nn.Linear(SIZE, 8, bias=bias)
        self.down = nn.Linear(8, SIZE, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gate(x).tanh() * self.up(x))


@pytest.fixture
def gated() -> Gated:
    return Gated().requires_grad_(False)


def rows() -> Tensor:
    return torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()


def output_and_gradient(model: nn.Module, *, autocast: bool = False) -> list[Tensor]:
    x = rows()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    (gradient,) = torch.autograd.grad(y, x, torch.linspace(-1, 2, y.numel()).view_as(y).to(y.dtype))
    return [y.detach(), gradient]


def is_formed(layer: nn.Module) -> bool:
    return isinstance(layer, Joined) and layer.join is not None and layer.join.weight is not None


# Which layers


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("tiny_roberta", ["query key value", "dense", "dense", "dense"]),
        ("tiny_llama", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"]),
        ("tiny_gpt2", ["c_attn", "c_proj", "c_fc", "c_proj"]),
    ],
)
def test_a_pass_shows_which_layers_share_their_input(
    tiny_model: Callable[..., PreTrainedModel], name: str, block: list[str]
) -> None:
    model = tiny_model(name).train()
    names = {module: name for name, module in model.named_modules()}
    groups = sharing_inputs(model, {"input_ids": torch.arange(6).view(2, 3) + 5})
    found = [" ".join(names[layer].rpartition(".")[2] for layer in group) for group in groups]
    assert found[: len(block)] == found[len(block) : 2 * len(block)] == block
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_layers_called_twice_or_with_a_bias_alone_are_not_joined() -> None:
    class Twice(Gated):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    model = Twice().requires_grad_(False)
    assert sharing_inputs(model, {"x": rows()}) == []
    model = Gated().requires_grad_(False)
    model.up.register_parameter("bias", None)
    with joined(model, {"x": rows()}):
        assert all(isinstance(layer, Joined) and len(layer.join.layers) == 1 for layer in model.children())  # pyrefly: ignore[missing-attribute]


def test_a_layer_whose_output_is_changed_in_place_computes_alone() -> None:
    class Adding(Gated):
        def forward(self, x: Tensor) -> Tensor:
            gate, up = self.gate(x), self.up(x)
            gate += x.sum(-1, keepdim=True)
            return self.down(gate.tanh() * up)

    model = Adding().requires_grad_(False)
    assert sharing_inputs(model, {"x": rows()}) == [[model.up], [model.down]]
    expected = output_and_gradient(model)
    with joined(model, {"x": rows()}):
        torch.testing.assert_close(output_and_gradient(model), expected)


@pytest.mark.parametrize("kind", ["frozen", "trained", "low rank"])
def test_an_input_that_is_changed_in_place_between_two_layers_is_not_shared(kind: str) -> None:
    """Autograd allows it if it has kept no input, or a cast one."""

    class Shifting(Gated):
        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            gate = self.gate(x).tanh()
            x += 1
            return self.down(gate * self.up(x))

    model = Shifting().requires_grad_(kind == "trained")
    if kind == "low rank":
        model.gate, model.up = LowRankLinear(model.gate, 2), LowRankLinear(model.up, 2)  # pyrefly: ignore[bad-assignment]
    assert sharing_inputs(model, {"x": rows()}) == [[model.gate], [model.up], [model.down]]
    expected, (y, gradient) = model(rows()), output_and_gradient(model, autocast=True)
    with joined(model, {"x": rows()}) as joins, materialised(model, joins=joins) as stacks:
        assert bool(stacks) == (kind == "low rank")
        torch.testing.assert_close(model(rows()), expected)
        found = output_and_gradient(model, autocast=True)
    torch.testing.assert_close(found[0], y, rtol=0.05, atol=0.01)
    torch.testing.assert_close(found[1], gradient, rtol=0.05, atol=0.01)


# The function


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("method", ["lora", "rosa", "ft"])
@pytest.mark.parametrize("name", ["tiny_roberta", "tiny_llama", "tiny_gpt2"])
def test_a_model_learns_the_same_with_joined_layers(
    compose: Callable[..., RunConfig],
    tiny_model: Callable[..., PreTrainedModel],
    learn: Callable[..., tuple[list[float], dict[str, Tensor]]],
    *,
    name: str,
    method: str,
    targets: str,
) -> None:
    if method == "ft" and targets != "attention":
        pytest.skip("full fine-tuning has no targets")
    task = "grammar" if name == "tiny_roberta" else "restaurants"
    words = [f"task={task}", f"model={name}", f"method={method}"]
    chosen: Any = compose(*words, *([] if method == "ft" else [f"method.targets={targets}", "rank=2"])).method
    ids = torch.randint(5, 261, (3, 9), generator=torch.Generator().manual_seed(2))
    batch = {"input_ids": ids, "labels": torch.tensor([0, 1, 1]) if task == "grammar" else ids}

    plain, other = (tiny_model(name).double().train() for _ in range(2))
    for model in (plain, other):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        vars(model.config).update(attention_probs_dropout_prob=0.0, attn_pdrop=0.0)
        chosen.attach(model)
    losses, gradients = learn(plain, chosen, batch)
    types = [type(module) for module in other.modules()]
    state = other.state_dict(keep_vars=True)
    with joined(other, batch) as joins, materialised(other, joins=joins) as stacks:
        found_losses, found = learn(other, chosen, batch)
        inside = other.state_dict(keep_vars=True)
        best = copy.deepcopy(other)
        restore_linears(best)
        expected = other.eval()(**batch).loss
        torch.testing.assert_close(best.eval()(**batch).loss, expected)
    assert bool(stacks) == (method != "ft")
    assert bool(joins) == (method != "ft" and (name != "tiny_gpt2" or SplitLinear in types))
    assert [type(module) for module in other.modules()] == types
    assert not any("join" in vars(module) for module in other.modules())
    assert list(inside) == list(state) and all(inside[key] is tensor for key, tensor in state.items())
    assert found_losses == pytest.approx(losses, rel=1e-6)
    for key, gradient in gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-9)


def test_the_layers_of_a_join_compute_one_product(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(len(weight))
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    gated(rows())
    with joined(gated.train(), {"x": rows()}):
        assert seen[:3] == [8, 8, SIZE]
        seen.clear()
        gated(rows())
    assert seen == [16, SIZE]


@pytest.mark.parametrize("bias", [True, False])
def test_frozen_layers_that_are_cast_once_have_the_same_output(bias: bool) -> None:
    model = Gated(bias=bias).requires_grad_(False)
    exact = output_and_gradient(model, autocast=True)
    with joined(model, {"x": rows()}):
        found = output_and_gradient(model, autocast=True)
        copies = [layer.join for layer in model.children() if isinstance(layer, Joined)]
    assert torch.equal(found[0], exact[0])  # a product's rows do not depend on the others'
    torch.testing.assert_close(found[1], exact[1], rtol=0.05, atol=0.01)  # two gradients are added before rounding
    assert len(copies) == 3
    assert all(it.dtype == torch.float32 for it in model.parameters())


def test_frozen_weights_of_the_products_type_become_views_of_one_tensor(gated: Gated) -> None:
    exact = output_and_gradient(gated)
    before = {name: (it, it.clone()) for name, it in gated.named_parameters()}
    with joined(gated, {"x": rows()}):
        found = output_and_gradient(gated)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)
    assert gated.gate.weight.untyped_storage().data_ptr() == gated.up.weight.untyped_storage().data_ptr()
    for name, it in gated.named_parameters():
        assert it is before[name][0] and torch.equal(it, before[name][1]) and it.is_contiguous()


@pytest.mark.parametrize("autocast", [False, True])
def test_weights_in_bfloat16_are_joined_where_products_read_them_as_they_are(gated: Gated, autocast: bool) -> None:
    store_in("bfloat16", gated, head="nothing")
    exact = output_and_gradient(gated, autocast=autocast)
    formed: list[bool] = []
    with joined(gated, {"x": rows()}):
        gated.gate.register_forward_pre_hook(lambda layer, _: formed.append(is_formed(layer)))
        found = output_and_gradient(gated, autocast=autocast)
    assert formed == [autocast]
    torch.testing.assert_close(found[0], exact[0])
    torch.testing.assert_close(found[1], exact[1], rtol=0.05, atol=0.01)
    assert all(it.dtype == torch.bfloat16 for name, it in gated.named_parameters() if "weight" in name)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_next_pass_sees_a_changed_weight_and_one_that_trains(gated: Gated, autocast: bool) -> None:
    with joined(gated, {"x": rows()}):
        output_and_gradient(gated, autocast=autocast)
        with torch.no_grad():
            gated.up.weight.add_(1.0)
            gated.down.bias.sub_(2.0)
        found = output_and_gradient(gated, autocast=autocast)
        expected = output_and_gradient(_separate(gated), autocast=autocast)
        torch.testing.assert_close(found[0], expected[0])
        gated.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gated(rows()).sum().backward()
    assert all(it.grad is not None and it.grad.any() for it in gated.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_pass_sees_weights_that_trained_and_are_frozen_again(gated: Gated, autocast: bool) -> None:
    """As blocks that take turns are. A fused optimizer changes a weight without raising its version."""
    with joined(gated, {"x": rows()}):
        output_and_gradient(gated, autocast=autocast)
        gated.requires_grad_()
        optimizer = torch.optim.AdamW(gated.parameters(), lr=0.1, fused=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gated(rows()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        gated.requires_grad_(False)
        found = output_and_gradient(gated, autocast=autocast)
    torch.testing.assert_close(found[0], output_and_gradient(_separate(gated), autocast=autocast)[0])


def test_every_pass_reads_weights_in_the_type_of_its_own_products(gated: Gated) -> None:
    """What was cast to bfloat16 has too few digits for float16."""
    with joined(gated, {"x": rows()}):
        for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                torch.testing.assert_close(gated(rows()), _separate(gated)(rows()))


@pytest.mark.parametrize("autocast", [False, True])
def test_the_next_pass_sees_a_weight_that_was_replaced(gated: Gated, autocast: bool) -> None:
    with joined(gated, {"x": rows()}):
        output_and_gradient(gated, autocast=autocast)
        gated.up.weight.data = gated.up.weight + 1.0
        found = output_and_gradient(gated, autocast=autocast)
    torch.testing.assert_close(found[0], output_and_gradient(_separate(gated), autocast=autocast)[0])


def test_one_layer_of_a_join_may_begin_to_train(gated: Gated) -> None:
    plain = _separate(gated)
    with joined(gated, {"x": rows()}):
        output_and_gradient(gated)
        for model in (gated, plain):
            model.up.weight.requires_grad_()
            model(rows()).sum().backward()
    torch.testing.assert_close(gated.up.weight.grad, plain.up.weight.grad)


def test_a_layer_that_gets_another_input_than_it_shared_computes_alone() -> None:
    class Choosing(Gated):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            other = x if self.factor == 1 else self.factor * x
            return self.down(self.gate(x).tanh() * self.up(other))

    model = Choosing().requires_grad_(False)
    with joined(model, {"x": rows()}):
        output_and_gradient(model)
        model.factor = 2.0
        found = output_and_gradient(model)
    torch.testing.assert_close(found, output_and_gradient(model))


def test_a_pass_that_fails_leaves_no_weight_behind(gated: Gated) -> None:
    with joined(gated, {"x": rows()}):
        with pytest.raises(RuntimeError):
            gated(torch.zeros(4, SIZE + 1))
        assert not any(is_formed(layer) for layer in gated.children())


def _separate(model: Gated) -> Gated:
    plain = Gated().requires_grad_(False)
    plain.load_state_dict(model.state_dict())
    return plain


def test_evaluation_and_other_inputs_use_a_layers_own_pass(gated: Gated) -> None:
    with joined(gated, {"x": rows()}):
        with torch.inference_mode():
            assert torch.equal(gated(rows()), _separate(gated)(rows()))
        gated(rows())  # a first pass in inference mode leaves nothing that the backward pass cannot read
        assert torch.equal(gated.up(rows()), _separate(gated).up(rows()))
        assert not any(is_formed(layer) for layer in gated.children())


def test_a_copy_is_independent_and_layers_too_large_for_a_stack_compute_alone() -> None:
    model = Gated()
    model.gate, model.up = LowRankLinear(model.gate, 2), LowRankLinear(model.up, 2)  # pyrefly: ignore[bad-assignment]
    exact = output_and_gradient(model)
    with joined(model, {"x": rows()}) as joins, materialised(model, joins=joins, largest=8 * SIZE - 1) as stacks:
        assert joins and not stacks
        other = copy.deepcopy(model)
        torch.nn.init.zeros_(other.down.weight)
        for one, expected in zip(output_and_gradient(model), exact, strict=True):
            assert torch.equal(one, expected)
        assert unjoined_type(model.gate) is LowRankLinear and type(model.gate) is not LowRankLinear
    assert type(model.gate) is LowRankLinear


def test_nothing_is_joined_without_a_batch(gated: Gated) -> None:
    with joined(gated, None) as joins:
        assert joins == [] and not any(isinstance(layer, Joined) for layer in gated.children())
