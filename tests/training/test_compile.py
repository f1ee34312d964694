import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.stacked import materialised
from rosa_bench.runs.resolve import resolve
from rosa_bench.system.errors import UserError
from rosa_bench.training.compile import COMPILERS, check_compiler, compiled

BACKEND = "aot_eager"  # traces and splits the passes like the real one, but needs no C++ compiler


# The compiler reads the gradient of every tensor in a layer, including a formed weight, which has none.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Forget what other tests compiled, and do not check shapes in compiled code."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def model(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], roughened: Callable[..., Any]
) -> PreTrainedModel:
    """A one-layer RoBERTa in float64 with LoRA attached and factors that are not zero."""
    net = tiny_model("tiny_roberta").double()
    del net.get_submodule("roberta.encoder.layer")[1]  # pyright: ignore[reportIndexIssue] - compiling it takes seconds
    compose("task=grammar", "model=tiny_roberta", "method=lora", "rank=2").method.attach(net)
    return roughened(net)


def batch(*, length: int = 9, padded: bool = True) -> dict[str, Tensor]:
    ids = torch.randint(5, 261, (3, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 1]), **({"attention_mask": mask} if padded else {})}


def gradients(model: nn.Module, **options: Any) -> tuple[float, dict[str, Tensor]]:
    """Return the loss, and its gradient for each trainable parameter."""
    model.zero_grad()
    loss = model(**batch(**options)).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def passes_compiled() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_a_compiled_model_has_the_same_loss_and_gradients(model: PreTrainedModel, together: bool) -> None:
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # compiled dropout draws other random numbers
    kinds = [{"padded": True}, {"padded": False}]
    expected = [gradients(model, **kind) for kind in kinds]
    forming = materialised(model) if together else nullcontext()
    with forming, compiled(model, "default", backend=BACKEND):
        assert passes_compiled() == 0  # not before it is used
        found = [gradients(model, **kind) for kind in kinds]
        assert passes_compiled() > 0
        again = gradients(model, **kinds[0])
    for (loss, given), (expected_loss, wanted) in zip([*found, again], [*expected, expected[0]], strict=True):
        assert loss == pytest.approx(
            expected_loss, rel=1e-6
        )  # transformers computes the classification loss in float32
        assert given.keys() == wanted.keys()
        for name, gradient in wanted.items():
            assert gradient.any()
            torch.testing.assert_close(given[name], gradient, rtol=1e-5, atol=1e-8)


def test_the_compiled_pass_sees_trained_weights(model: PreTrainedModel) -> None:
    with torch.no_grad():
        before = model(**batch()).loss
        with compiled(model, "default", backend=BACKEND):
            torch.testing.assert_close(model(**batch()).loss, before)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
            inside = model(**batch()).loss
        torch.testing.assert_close(inside, model(**batch()).loss)
    assert not torch.allclose(inside, before, rtol=1e-3)


@pytest.mark.parametrize("fails", [False, True])
def test_the_original_forward_pass_is_restored(model: PreTrainedModel, fails: bool) -> None:
    before = model.forward
    with pytest.raises(KeyError) if fails else nullcontext(), compiled(model, "default", backend=BACKEND):
        assert "forward" in vars(model)
        if fails:
            raise KeyError
    assert "forward" not in vars(model)
    assert inspect.ismethod(model.forward) and model.forward == before
    model(**batch())
    assert passes_compiled() == 0


def test_none_changes_nothing(model: PreTrainedModel) -> None:
    before = dict(vars(model))
    with compiled(model, "none"):
        assert vars(model) == before
        model(**batch())
    assert vars(model) == before
    assert passes_compiled() == 0


@pytest.mark.parametrize(("choice", "mode"), [("default", None), ("max", "max-autotune-no-cudagraphs")])
def test_each_choice_is_a_valid_inductor_mode_without_cuda_graphs(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, choice: str, mode: str | None
) -> None:
    asked: list[dict[str, Any]] = []

    def compile_(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    with compiled(model, choice):
        model(**batch())
    assert asked == [{"mode": mode, "backend": "inductor"}]
    assert mode is None or mode in torch._inductor.list_mode_options()


def test_an_unknown_choice_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(KeyError), compiled(model, "fastest"):
        pass
    assert "forward" not in vars(model)


# The C++ compiler


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """A machine without a compiler; ``machine("clang")`` puts one there."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not any(map(shutil.which, COMPILERS))

    def install(name: str) -> Path:
        path = tmp_path / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return path

    return install


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("choice", ["default", "max"])
def test_a_missing_compiler_is_reported_in_one_line(choice: str) -> None:
    with pytest.raises(UserError) as raised:
        check_compiler(choice)
    message = str(raised.value)
    assert "\n" not in message
    for word in (f"compile={choice}", "C++ compiler", "compile=none"):
        assert word in message


@pytest.mark.usefixtures("machine")
def test_a_missing_compiler_is_reported_before_any_work_starts(
    compose: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ("task=grammar", "model=tiny_roberta", "method=lora", "device=cpu")
    assert resolve(compose(*settings), {}).config.compile == "none"
    with pytest.raises(UserError, match="compile=max needs"):
        resolve(compose(*settings, "compile=max"), {})


@pytest.mark.usefixtures("machine")
def test_compile_none_needs_no_compiler() -> None:
    check_compiler("none")


@pytest.mark.parametrize("choice", ["default", "max"])
@pytest.mark.parametrize("name", ["c++", "g++", "clang++", "cc", "gcc", "clang"])
def test_any_common_compiler_is_accepted(machine: Callable[[str], Path], name: str, choice: str) -> None:
    machine(name)
    check_compiler(choice)


@pytest.mark.parametrize("variable", ["CXX", "CC"])
def test_the_environment_can_name_a_compiler(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, "my-compiler")
    with pytest.raises(UserError):
        check_compiler("default")
    path = machine("my-compiler")
    check_compiler("default")
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setenv(variable, str(path))
    check_compiler("default")
    monkeypatch.setenv(variable, "")
    with pytest.raises(UserError):
        check_compiler("default")
