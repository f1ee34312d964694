"""Optimizers in a small space, against an independent implementation and the formulas of the papers."""

from typing import Any

import pytest
import torch
from pytorch_optimizer.optimizer import APOLLO, Fira, GaLore
from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector
from torch import Tensor, nn

from rosa_bench.optim.moments import can_rotate
from rosa_bench.optim.projected import RULES, ProjectedAdamW

RANK, STEPS = 3, 5
OPTIONS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0}


def gradients(shape: tuple[int, int], projector: Tensor | None = None) -> list[Tensor]:
    """Random gradients, of growing size so that the limit on growth acts. With a projector they lie in its span."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) * 2**step for step in range(STEPS)]
    if projector is None:
        return drawn
    inside = projector @ projector.mT
    return [it @ inside if shape[0] >= shape[1] else inside @ it for it in drawn]


def basis(shape: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(min(shape), RANK, generator=generator, dtype=torch.float64)).Q


def ours(
    rule: str, shape: tuple[int, int], given: list[Tensor], *, scale: float = 1.0, **options: Any
) -> tuple[Tensor, ProjectedAdamW]:
    weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    group = {"params": [weight], "projectors": [basis(shape)], "transposed": [shape[0] < shape[1]]}
    optimizer = ProjectedAdamW([{**group, **OPTIONS, **options}], rule=rule, scale=scale)
    for gradient in given:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach(), optimizer


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
@pytest.mark.parametrize(
    ("rule", "library", "extra"),
    [
        ("galore", GaLore, {}),
        ("fira", Fira, {}),
        ("channel", APOLLO, {"scale_type": "channel"}),
        ("tensor", APOLLO, {"scale_type": "tensor"}),
    ],
)
def test_updates_equal_the_librarys(rule: str, library: Any, extra: dict[str, Any], shape: tuple[int, int]) -> None:
    """The library's APOLLO scales the gradient's part in the span; the paper and we scale the whole gradient.

    So the gradients that both get here lie in the span, where the two are equal.
    """
    projector = basis(shape)
    given = gradients(shape, projector if library is APOLLO else None)
    weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    settings = {"rank": RANK, "update_proj_gap": 10**6, "scale": 1.0, "projection_type": "std"}
    optimizer = library([{"params": [weight], **settings}], **OPTIONS, foreach=False, **extra)
    fixed = GaLoreProjector(**settings)  # pyrefly: ignore[bad-argument-type]
    fixed.ortho_matrix = projector.mT if shape[0] >= shape[1] else projector
    optimizer.state[weight]["projector"] = fixed
    for gradient in given:
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(ours(rule, shape, given)[0], weight.detach(), rtol=0, atol=1e-6)


def test_apollo_scales_the_whole_gradient() -> None:
    """The paper's formula at the first step: W - lr S G, where S is |N_j| / |R_j| by channel and N has entries +-1."""
    [gradient, *_] = gradients((8, 5))
    low = gradient @ basis((8, 5))
    expected = 1 - 0.01 * gradient * RANK**0.5 / low.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours("channel", (8, 5), [gradient], eps=1e-12)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_scale_multiplies_the_whole_update(rule: str) -> None:
    given = gradients((8, 5))
    whole, quarter = (ours(rule, (8, 5), given, scale=scale)[0] - 1 for scale in (1.0, 0.25))
    torch.testing.assert_close(quarter, 0.25 * whole)


@pytest.mark.parametrize("rule", RULES)
def test_weight_decay_is_decoupled_and_not_scaled(rule: str) -> None:
    given = gradients((8, 5))[:1]
    plain, decayed = (ours(rule, (8, 5), given, weight_decay=decay, scale=0.25)[0] for decay in (0.0, 0.5))
    torch.testing.assert_close(plain - decayed, torch.full_like(plain, 0.01 * 0.5))


@pytest.mark.parametrize("rule", RULES)
def test_the_state_is_small(rule: str) -> None:
    _, optimizer = ours(rule, (8, 5), gradients((8, 5)))
    [state] = optimizer.state.values()
    assert sum(value.numel() for value in state.values()) == 2 * 8 * RANK + (1 if rule == "galore" else 2)


@pytest.mark.parametrize("rule", RULES)
def test_each_weight_of_a_stack_trains_as_it_would_alone(rule: str) -> None:
    given = gradients((8, 5))
    growing = [torch.stack([one, one * 10**step]) for step, one in enumerate(given)]
    weight, projectors = nn.Parameter(torch.ones(2, 8, 5, dtype=torch.float64)), [torch.stack([basis((8, 5))] * 2)]
    group = {"params": [weight], "projectors": projectors, "transposed": [False], **OPTIONS}
    optimizer = ProjectedAdamW([group], rule=rule, scale=1.0)
    for weight.grad in growing:
        optimizer.step()
    torch.testing.assert_close(weight[0].detach(), ours(rule, (8, 5), given)[0])
    assert can_rotate(optimizer.state[weight], torch.eye(RANK).expand(2, RANK, RANK))


@pytest.mark.parametrize("rule", RULES)
def test_a_learning_rate_may_be_a_tensor(rule: str) -> None:
    given = gradients((8, 5))
    rate = torch.tensor(0.01, dtype=torch.float64)
    found = ours(rule, (8, 5), given, lr=rate, fused=True)[0]
    torch.testing.assert_close(found, ours(rule, (8, 5), given)[0], rtol=0, atol=1e-6)


def test_a_loaded_state_leaves_the_projectors_to_the_model() -> None:
    """A draw writes into the model's projector, so an optimizer with a copy would go on with the one before."""
    given = gradients((8, 5))
    _, saved = ours("galore", (8, 5), given)
    _, optimizer = ours("galore", (8, 5), given[:1])
    [group] = optimizer.param_groups
    projectors = group["projectors"]
    optimizer.load_state_dict(saved.state_dict())
    [group] = optimizer.param_groups
    assert all(one is other for one, other in zip(group["projectors"], projectors, strict=True))
    [state], [expected] = optimizer.state.values(), saved.state.values()
    assert all(torch.equal(value, expected[name]) for name, value in state.items()) and state.keys() == expected.keys()
