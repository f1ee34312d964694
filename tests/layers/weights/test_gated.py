"""Hard-concrete gates against the formulas of the papers, written out."""

import math

import pytest
import torch
from torch import Tensor

from rosa_bench.layers.weights.gated import GatedDifference, gate, open_probability, random_gate

L, R = -1.5, 1.5


def as_in_the_paper(u: Tensor, a: Tensor) -> Tensor:
    """Equations of arXiv 2012.07463, section 2.2: s, its stretched form, and z."""
    s = 1 / (1 + torch.exp(-(u.log() - (1 - u).log() + a)))
    return torch.clamp(s * (R - L) + L, max=1).clamp(min=0)


def form(a: Tensor, *, structured: bool, group: float = 0.4) -> GatedDifference:
    made = GatedDifference(torch.zeros_like(a), start=0.0, structured=structured)
    with torch.no_grad():
        made.a.copy_(a)
        made.difference.copy_(torch.linspace(-1, 1, a.numel()).view_as(a))
        if made.group is not None:
            made.group.fill_(group)
    return made


def test_gates_follow_the_papers_formula() -> None:
    a = torch.linspace(-4, 4, 1000, dtype=torch.float64)
    torch.manual_seed(0)
    found = random_gate(a)
    torch.manual_seed(0)
    u = torch.rand_like(a)
    torch.testing.assert_close(found, as_in_the_paper(u, a))
    assert {0.0, 1.0} < set(found.tolist())  # exactly closed, exactly open, and in between
    torch.testing.assert_close(gate(a), as_in_the_paper(torch.full_like(a, 0.5), a))


@pytest.mark.parametrize("a", [-3.0, -0.5, 0.0, 1.0, 3.0])
def test_the_probability_of_an_open_gate_is_its_frequency(a: float) -> None:
    torch.manual_seed(0)
    count = 100_000
    frequency = (random_gate(torch.full((count,), a)) > 0).float().mean().item()
    expected = 1 / (1 + math.exp(-(a - math.log(-L / R))))
    assert open_probability(torch.tensor(a)).item() == pytest.approx(expected)
    assert frequency == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))


@pytest.mark.parametrize("structured", [False, True])
def test_the_expected_number_of_changes_is_that_of_many_draws(structured: bool) -> None:
    torch.manual_seed(0)
    made = form(torch.randn(6, 5), structured=structured)
    frozen, draws = torch.zeros(6, 5), 3000
    with torch.no_grad():
        counts = torch.stack([(made(frozen) != 0).sum() for _ in range(draws)]).double()
    error = counts.std().item() / math.sqrt(draws)
    assert made.expected_nonzeros().item() == pytest.approx(counts.mean().item(), abs=4 * error)
    assert 4 * error < 0.1 * counts.mean().item()


@pytest.mark.parametrize("structured", [False, True])
def test_gradients_are_those_of_the_formula(structured: bool) -> None:
    made = form(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), structured=structured).double()
    frozen, weights = torch.randn(40, 30).double(), torch.randn(40, 30).double()
    torch.manual_seed(5)  # for which the gate of the whole weight is neither 0 nor 1
    found = torch.autograd.grad((made(frozen) * weights).sum(), list(made.parameters()))
    torch.manual_seed(5)
    factor = 1.0 if made.group is None else as_in_the_paper(torch.rand_like(made.group), made.group)
    whole = frozen + factor * as_in_the_paper(torch.rand_like(made.a), made.a) * made.difference
    expected = torch.autograd.grad((whole * weights).sum(), list(made.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("structured", [False, True])
def test_noise_is_drawn_in_training_only_and_until_the_gates_are_fixed(structured: bool) -> None:
    made, frozen = form(torch.randn(6, 5), structured=structured), torch.randn(6, 5)
    assert not torch.equal(made(frozen), made(frozen))
    made.eval()
    before = made(frozen)
    factor = 1.0 if made.group is None else gate(made.group)
    torch.testing.assert_close(before, frozen + factor * gate(made.a) * made.difference)
    kept = torch.tensor([3, 28])
    made.fix(kept)
    expected = frozen.clone().view(-1)
    expected[kept] = before.view(-1)[kept]
    for mode in (True, False):
        torch.testing.assert_close(made.train(mode)(frozen), expected.view_as(frozen))
    made(frozen).sum().backward()
    assert made.difference.grad is not None
    assert made.difference.grad.view(-1).nonzero().flatten().tolist() == kept.tolist()
    assert [name for name, parameter in made.named_parameters() if parameter.requires_grad] == ["difference"]


def test_the_smallest_and_largest_noise_give_no_nan() -> None:
    ends = torch.tensor([0.0, 1 - 2**-24])  # of the numbers that torch.rand can return
    a = torch.tensor([-1.0, 1.0], requires_grad=True)
    found = gate(a, torch.logit(ends))
    found.sum().backward()
    assert found.tolist() == [0.0, 1.0]
    assert a.grad is not None
    assert a.grad.isfinite().all()
