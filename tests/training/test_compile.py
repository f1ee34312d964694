import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.fused.joined import joined
from rosa_bench.layers.fused.stacked import materialised
from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.models.logits.chunked_loss import use_chunked_loss
from rosa_bench.runs.resolve import resolve
from rosa_bench.system.errors import UserError
from rosa_bench.training.compile import COMPILERS, check_compiler, compiled

BACKEND = "aot_eager"  # traces and splits the passes like the real one, but needs no C++ compiler


# The compiler reads the gradient of every tensor in a layer, including a formed weight, which has none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.usefixtures("compiling"),
]


@pytest.fixture
def model(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., PreTrainedModel], roughened: Callable[..., Any]
) -> PreTrainedModel:
    """A one-layer RoBERTa in float64 with LoRA attached and factors that are not zero."""
    net = tiny_model("tiny_roberta").double()
    del net.get_submodule("roberta.encoder.layer")[1]  # pyrefly: ignore[unsupported-operation] - compiling it takes seconds
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
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = model(**batch()).loss
    with compiled(model, "default", backend=BACKEND):
        torch.testing.assert_close(model(**batch()).loss, before)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        inside = model(**batch()).loss
        assert passes_compiled() == 1
    torch.testing.assert_close(inside, model(**batch()).loss)
    assert not torch.allclose(inside, before, rtol=1e-3)


def test_evaluation_is_not_compiled(model: PreTrainedModel) -> None:
    with torch.inference_mode():
        wanted = model.eval()(**batch()).logits
        with compiled(model, "default", backend=BACKEND):
            assert torch.equal(model(**batch()).logits, wanted)
            assert torch.equal(model.train().eval()(**batch()).logits, wanted)
    assert passes_compiled() == 0


@pytest.mark.parametrize("fails", [False, True])
def test_the_original_forward_passes_are_restored(model: PreTrainedModel, fails: bool) -> None:
    blocks = transformer_blocks(model)
    before, limit = [block.forward for block in blocks], torch._dynamo.config.recompile_limit
    with pytest.raises(KeyError) if fails else nullcontext(), compiled(model, "default", backend=BACKEND):
        assert all("forward" in vars(block) for block in blocks)
        if fails:
            raise KeyError
    assert not any("forward" in vars(block) for block in blocks)
    assert [block.forward for block in blocks] == before
    assert torch._dynamo.config.recompile_limit == limit
    model.train()(**batch())
    assert passes_compiled() == 0


def decoder(compose: Callable[..., RunConfig], layers: int, method: str) -> PreTrainedModel:
    """A Llama of some layers with a method attached; its output layer stays frozen under ``fair``."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=261, hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
                    num_attention_heads=2, num_key_value_heads=1)
    )  # fmt: skip
    use_fast_attention(model)
    assert use_chunked_loss(model)
    words = ("task=restaurants", "model=tiny_llama", f"method={method}", "rank=2", "protocol=fair")
    compose(*words).method.attach(model)
    return model.train()


def compilations(model: PreTrainedModel) -> list[int]:
    """Train on batches of several lengths, with and without padding, and return the compilations after each round."""
    counts, first = [], {**batch(), "labels": batch()["input_ids"]}
    with (
        joined(model, first) as joins,
        materialised(model, joins=joins),
        compiled(model, "default", backend="eager"),  # which only traces
    ):
        assert joins
        for _ in range(2):
            for length in (8, 12, 20):
                for padded in (False, True):
                    inputs = batch(length=length, padded=padded)
                    model(**{**inputs, "labels": inputs["input_ids"]}).loss.backward()
            counts.append(passes_compiled())
    return counts


@pytest.mark.slow  # twelve traces
def test_compilations_grow_with_neither_layers_nor_steps(compose: Callable[..., RunConfig]) -> None:
    """A form of the block and one of the loss for the first shape, and general ones; padded blocks likewise."""
    counts = []
    for layers in (1, 3):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        counts.append(compilations(decoder(compose, layers, "rosa")))
    assert counts == [[6, 6]] * 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ft", "rosa"])
def test_a_compiled_decoder_has_the_same_loss_and_gradients(compose: Callable[..., RunConfig], method: str) -> None:
    model = decoder(compose, 2, method)
    inputs = {**batch(), "labels": batch()["input_ids"]}

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    wanted = step()
    with (
        joined(model, inputs) as joins,
        materialised(model, joins=joins),
        compiled(model, "default", backend=BACKEND),
    ):
        found = step()
        assert passes_compiled() == 2
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


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
        model.train()(**batch())
    assert asked == [{"mode": mode, "backend": "inductor"}] * len(transformer_blocks(model))
    assert mode is None or mode in torch._inductor.list_mode_options()


def test_an_unknown_choice_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(KeyError), compiled(model, "fastest"):
        pass
    assert not any("forward" in vars(block) for block in transformer_blocks(model))


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
