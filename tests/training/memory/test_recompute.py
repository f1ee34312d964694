"""Gradient checkpointing and offloading leave every gradient as it is, and hold less in memory."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MPNetConfig, MPNetForSequenceClassification, PreTrainedModel

from rosa_bench.api import run
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.structure.blocks import transformer_blocks
from rosa_bench.methods.ft import FullFineTuning
from rosa_bench.models.attention import use_fast_attention
from rosa_bench.system.errors import UserError
from rosa_bench.system.tensors import put, whole
from rosa_bench.training.compile import compiled
from rosa_bench.training.memory.offload import Loader, movable, offloaded
from rosa_bench.training.memory.recompute import recomputed
from rosa_bench.training.state import by_device

Tiny = Callable[..., PreTrainedModel]
Compose = Callable[..., RunConfig]
MODELS = ("tiny_roberta", "tiny_gpt2", "tiny_llama")
CPU = torch.device("cpu")
RUN = ["task=grammar", "model=tiny_roberta", "epochs=1", "batch_size=16", "limit_train=64", "limit_eval=32", "rank=2",
       "device=cpu", "precision=float32"]  # fmt: skip


def batch(model: nn.Module) -> dict[str, Tensor]:
    tokens = torch.randint(5, 261, (3, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens, "labels": torch.tensor([0, 1, 1]) if hasattr(model, "classifier") else tokens}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of one step with dropout, from the same random numbers every time."""
    torch.manual_seed(7)
    model.zero_grad(set_to_none=True)
    model.train()
    model(**batch(model)).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert expected
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


def with_dropout(model: PreTrainedModel) -> PreTrainedModel:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    return model


@pytest.fixture
def mpnet() -> PreTrainedModel:
    config = MPNetConfig(
        vocab_size=261, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    model = MPNetForSequenceClassification(config)
    use_fast_attention(model)
    return model


class Saved:
    """Counts the elements that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.elements = 0

    def __enter__(self) -> "Saved":
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    def pack(self, tensor: Tensor) -> Tensor:
        self.elements += tensor.numel()
        return tensor


# Gradient checkpointing


@pytest.mark.parametrize("name", MODELS)
def test_recomputing_leaves_gradients_unchanged_to_the_bit_with_dropout(tiny_model: Tiny, name: str) -> None:
    model = with_dropout(tiny_model(name))
    expected = gradients(model)
    with recomputed(model):
        found = gradients(model)
    assert_equal(found, expected)
    assert_equal(gradients(model), expected)  # and nothing is left behind


def test_recomputing_works_with_mpnet_which_the_library_refuses(mpnet: PreTrainedModel) -> None:
    assert not mpnet.supports_gradient_checkpointing
    expected = gradients(with_dropout(mpnet))
    with recomputed(mpnet):
        assert_equal(gradients(mpnet), expected)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_inputs_of_blocks_are_kept(tiny_model: Tiny, name: str) -> None:
    model = tiny_model(name).train()
    with Saved() as plain:
        model(**batch(model))
    with recomputed(model), Saved() as less:
        model(**batch(model))
    assert less.elements < 0.6 * plain.elements


def test_without_it_nothing_is_changed(tiny_model: Tiny) -> None:
    model = tiny_model("tiny_roberta")
    with recomputed(model, False):
        assert not any("forward" in vars(block) for block in transformer_blocks(model))


def test_a_decoder_gets_its_cache_back(tiny_model: Tiny) -> None:
    model = tiny_model("tiny_llama")
    assert model.config.use_cache
    with recomputed(model):
        assert not model.config.use_cache
    assert model.config.use_cache
    assert not any("forward" in vars(block) for block in transformer_blocks(model))


@pytest.mark.slow  # the compiler's first use takes some seconds
@pytest.mark.parametrize("name", MODELS)
def test_recomputing_goes_with_compiling(tiny_model: Tiny, name: str) -> None:
    model = tiny_model(name)  # without dropout, whose numbers compiled code draws in its own way
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.config.attention_dropout = 0.0
    expected = gradients(model)
    with compiled(model, "default", backend="aot_eager"), recomputed(model):
        found = gradients(model)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_run_ends_with_the_same_scores_and_no_deviation(in_folder: None) -> None:
    plain, less = run(RUN), run([*RUN, "gradient_checkpointing=true"])
    assert less.config["gradient_checkpointing"] is True
    assert less.deviations == plain.deviations
    assert less.id != plain.id
    assert less.scores is not None
    assert plain.scores is not None
    assert less.scores.last == plain.scores.last


@pytest.fixture
def in_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def test_networks_without_blocks_are_refused(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"gradient_checkpointing=true is not for task=synthetic.*=false"):
        compose("task=synthetic", "model=mlp1", "gradient_checkpointing=true")


# Offloading


def attached(model: PreTrainedModel, method: Any) -> tuple[PreTrainedModel, Any, dict[str, Tensor], dict[str, Tensor]]:
    """A model with a method attached, the method, copies of all tensors, and the gradients of one step."""
    method.attach(model)
    return model, method, {name: tensor.clone() for name, tensor in model.state_dict().items()}, gradients(model)


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, method) for name in MODELS for method in ("lora", "rosa", "ia3")), ("tiny_roberta", "head_only")],
)
def test_loading_block_by_block_leaves_gradients_unchanged_to_the_bit(
    tiny_model: Tiny, compose: Compose, name: str, method: str
) -> None:
    model, chosen, before, expected = attached(with_dropout(tiny_model(name)), made(compose, name, method))
    with offloaded(model, chosen, CPU) as loader, recomputed(model):
        found = gradients(model)
        resident = [{loader.is_loaded(tensor) for tensor in tensors} for tensors in loader.blocks]
    # One block at a time. The backward pass ends with the first one, and does not reach the blocks below a lone head.
    assert resident == ([{False}, {True}] if method == "head_only" else [{True}, {False}])
    assert all(map(loader.is_loaded, loader.stored))
    assert_equal(found, expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert_equal(gradients(model), expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["ft", "lisa"])
def test_a_weight_that_trains_leaves_the_device_with_its_gradient(
    tiny_model: Tiny, compose: Compose, name: str, method: str
) -> None:
    """So the optimizer changes the stored one, and the device never holds the gradients of two blocks."""
    model, chosen, before, expected = attached(with_dropout(tiny_model(name)), made(compose, name, method))
    with offloaded(model, chosen, CPU) as loader, recomputed(model):
        found = gradients(model)
        trained = [tensor for tensors in loader.blocks for tensor in tensors if tensor.requires_grad]
        assert trained
        assert not any(map(loader.is_loaded, trained))
        assert all(tensor.grad is loader.gradients[tensor] for tensor in trained)
        with torch.no_grad():
            for tensor in trained:
                tensor.add_(1)  # as the optimizer does
        evaluated = model.eval()(**batch(model)).logits
        loader.load(0)
        assert all(tensor.grad is None for tensor in loader.blocks[0])  # autograd adds to none on another device
    assert_equal(found, expected)
    moved = {key for key, p in model.named_parameters() if any(p is tensor for tensor in trained)}
    for key, tensor in model.named_parameters():
        assert torch.equal(tensor, before[key] + 1 if key in moved else before[key]), key
    torch.testing.assert_close(model.eval()(**batch(model)).logits, evaluated)
    assert_equal(gradients(model), gradients(model))
    assert all(map(loader.is_loaded, trained))  # no hook is left behind


def test_no_gradients_are_held_for_blocks_whose_turn_is_over(tiny_model: Tiny, compose: Compose) -> None:
    method = made(compose, "tiny_llama", "ft")
    model = method.attach(tiny_model("tiny_llama"))
    with offloaded(model, method, CPU) as loader, recomputed(model):
        gradients(model)
        assert loader.gradients.keys() == {tensor for tensors in loader.blocks for tensor in tensors}
        for tensor in loader.blocks[1]:
            tensor.requires_grad_(False)
        gradients(model)
        assert loader.gradients.keys() == set(loader.blocks[0])


def test_a_block_that_is_still_loaded_is_not_loaded_again(tiny_model: Tiny, compose: Compose) -> None:
    method = made(compose, "tiny_roberta", "lora")
    with offloaded(method.attach(tiny_model("tiny_roberta")), method, CPU) as loader:
        loader.load(1)
        loaded = [tensor.data for tensor in loader.blocks[1]]
        loader.load(1)
        assert [it.data_ptr() for it in loader.blocks[1]] == [it.data_ptr() for it in loaded]


def test_the_next_block_is_loaded_while_one_computes_up_and_down() -> None:
    loader = Loader([[torch.rand(2, 3)] for _ in range(4)], CPU)

    def passed(*numbers: int) -> list[bool]:
        """Whether each block was there before it was asked for. Afterwards it is, with one neighbour at most."""
        ahead = []
        for number in numbers:
            ahead.append(loader.is_loaded(loader.blocks[number][0]))
            loader.load(number)
            loaded = [other for other in range(4) if loader.is_loaded(loader.blocks[other][0])]
            assert loaded in ([number], [number - 1, number], [number, number + 1])
        return ahead

    assert passed(0, 1, 2, 3) == [False, True, True, True]
    assert passed(3, 2, 1, 0) == [True, True, True, True]
    assert passed(0, 1, 2, 3) == [True, True, True, True]
    assert passed(0, 1, 2, 3) == [False, False, True, True]  # after an evaluation, which never goes down
    assert passed(3, 2, 0, 3) == [True, True, False, False]


def test_what_an_evaluation_has_loaded_can_train_afterwards() -> None:
    blocks = [torch.zeros(2, 3) for _ in range(2)]
    loader = Loader([[block] for block in blocks], CPU)
    with torch.inference_mode():
        loader.load(0)
    loader.load_all()
    for block in blocks:
        (block.requires_grad_() @ torch.ones(3, 1)).sum().backward()


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("method", ["ft", "lora", "lisa", "badam"])
def test_a_deep_model_trains_as_it_does_without_it(compose: Compose, method: str, kind: str) -> None:
    """With more blocks than are loaded at once, and with evaluations between the steps."""
    device, chosen = torch.device(kind), made(compose, "tiny_llama", method)
    config = LlamaConfig(
        vocab_size=261, hidden_size=32, intermediate_size=64, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = chosen.attach(LlamaForCausalLM(config).to(device))  # pyrefly: ignore[bad-argument-type]
    other = copy.deepcopy(model)
    inputs = {key: tensor.to(device) for key, tensor in batch(model).items()}

    def trained(model: nn.Module) -> list[float]:
        optimizer = torch.optim.Adam(chosen.trainable(model), lr=1e-2)
        losses = []
        for step in range(4):
            loss = model.train()(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if step % 2:
                with torch.no_grad():
                    losses.append(model.eval()(**inputs).loss.item())
        return losses

    with offloaded(model, chosen, device), recomputed(model):
        found = trained(model)
    assert found == pytest.approx(trained(other), rel=0 if kind == "cpu" else 1e-3, abs=0)
    if kind == "cpu":
        assert_equal(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("method", ["lora", "ft"])
def test_gradients_of_several_parts_of_a_batch_add_up(tiny_model: Tiny, compose: Compose, method: str) -> None:
    model, chosen = tiny_model("tiny_llama"), made(compose, "tiny_llama", method)
    chosen.attach(model)

    def added_up() -> dict[str, Tensor]:
        model.zero_grad(set_to_none=True)
        for part in batch(model)["input_ids"].split(1):
            model(input_ids=part, labels=part).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.train()
    expected = added_up()
    with offloaded(model, chosen, CPU), recomputed(model):
        assert_equal(added_up(), expected)
        assert_equal(added_up(), expected)  # and not to those of the batch before
    after = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_equal(after, expected)


def test_autocast_keeps_no_copies_of_weights_that_are_loaded(tiny_model: Tiny, compose: Compose) -> None:
    method = made(compose, "tiny_llama", "ft")
    model = method.attach(tiny_model("tiny_llama"))
    with offloaded(model, method, CPU), torch.autocast("cpu", torch.bfloat16):
        assert not torch.is_autocast_cache_enabled()
    assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("chosen", ["rosa", "lora", "galore"])
def test_what_is_small_stays(tiny_model: Tiny, compose: Compose, chosen: str) -> None:
    model, method = tiny_model("tiny_roberta"), made(compose, "tiny_roberta", chosen)
    method.attach(model)
    moved = {id(tensor) for tensors in movable(model, method) for tensor in tensors}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        large = "encoder.layer" in name and tensor.ndim > 1 and min(tensor.shape) > method.rank
        assert (id(tensor) in moved) is large, name


def test_an_optimizers_groups_are_split_by_device_with_what_they_hold_for_each_parameter() -> None:
    parameters = [nn.Parameter(torch.zeros(2, device=kind)) for kind in ("cpu", "meta", "cpu")]
    group = {"params": parameters, "projectors": ["first", "second", "third"], "lr_scale": 2.0}
    first, _, third = parameters
    here, there = by_device([group])
    assert here == {"params": [first, third], "projectors": ["first", "third"], "lr_scale": 2.0}
    assert there["projectors"] == ["second"]


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_is_written_between_two_steps_is_found_by_the_next_passes(kind: str) -> None:
    """Whether the block is still loaded or not, and also before anything is loaded again."""
    blocks = [torch.full((2, 3), float(number), device=kind) for number in range(3)]
    loader = Loader([[block] for block in blocks], torch.device(kind))
    loader.load(0)
    assert [loader.is_loaded(block) for block in blocks] == [True, True, False]
    for number, block in enumerate(blocks):
        put(block, torch.full((2, 3), 10.0 + number, device=kind))
    for number in (0, 1, 2, 0):
        assert whole(blocks[number]).device == CPU
        assert bool((whole(blocks[number]) == 10 + number).all())
        loader.load(number)
        assert blocks[number].device.type == kind
        assert bool((blocks[number] == 10 + number).all())
    loader.load_all()
    assert all(whole(block) is block for block in blocks)


def test_a_method_that_changes_every_weight_by_itself_is_refused(tiny_model: Tiny, compose: Compose) -> None:
    class ByItself(FullFineTuning):
        offloadable: ClassVar[bool] = False

    method = ByItself(**vars(made(compose, "tiny_roberta", "ft")))
    model = method.attach(tiny_model("tiny_roberta"))
    refusal = pytest.raises(UserError, match=r"method=ft changes every weight.*offload=null")
    with refusal, offloaded(model, method, CPU):
        pass


def test_offloading_is_refused_where_it_cannot_help(compose: Compose, in_folder: None) -> None:
    with pytest.raises(UserError, match=r"offload=layers needs gradient_checkpointing=true"):
        compose(*RUN, "offload=layers")
    with pytest.raises(UserError, match=r"offload=layers moves weights out of a GPU's memory.*device=cpu"):
        run([*RUN, "offload=layers", "gradient_checkpointing=true"])
    with pytest.raises(UserError, match=r"gradients of method=ft in the CPU's memory.*do not exchange.*offload=null"):
        compose(*RUN, "method=ft", "offload=layers", "gradient_checkpointing=true", "parallel=data")
    with pytest.raises(UserError, match=r"offload=layers does not work with compile=default"):
        compose(*RUN, "offload=layers", "gradient_checkpointing=true", "compile=default")


def made(compose: Compose, model: str, method: str) -> Any:
    task = "grammar" if model == "tiny_roberta" else "restaurants"
    return compose(f"task={task}", f"model={model}", f"method={method}", "protocol=fair", "rank=4").method


# With a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chosen", ["lora", "rosa", "ft", "lisa", "galore"])
def test_on_a_gpu_gradients_are_equal_and_memory_is_saved(
    tiny_model: Tiny, compose: Compose, *, chosen: str, name: str, offload: bool, autocast: bool
) -> None:
    gpu = torch.device("cuda")
    model = with_dropout(tiny_model(name)).to(gpu)  # pyrefly: ignore[bad-argument-type]
    method = made(compose, name, chosen)
    method.attach(model)

    def step() -> dict[str, Tensor]:
        torch.manual_seed(7)
        model.zero_grad(set_to_none=True)
        model.train()
        inputs = {key: tensor.to(gpu) for key, tensor in batch(model).items()}
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = model(**inputs).loss
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = step()
    model.zero_grad(set_to_none=True)
    used = torch.cuda.memory_allocated()
    with offloaded(model, method, gpu) if offload else nullcontext() as loader, recomputed(model):
        # Measured before a kernel runs: recomputing in the thread of the backward pass gives cuBLAS a new workspace.
        assert loader is None or torch.cuda.memory_allocated() < used
        found = step()
        if loader is not None:
            trained, frozen = (
                [[it.is_cuda for it in tensors if it.requires_grad is wanted] for tensors in loader.blocks]
                for wanted in (True, False)
            )
            assert not any(map(any, trained))
            assert all(frozen[0])
            assert not any(frozen[1])
    assert all(parameter.is_cuda for parameter in model.parameters())
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key].to(gpu), tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("late", ["computing", "copies"])
def test_on_a_gpu_blocks_are_whole_however_late_computing_or_copies_are(late: str) -> None:
    """Copies must not overwrite what is still to be read, nor may anything be read before it is copied."""
    gpu = torch.device("cuda")
    blocks = [torch.full((1000, 1000), number + 1.0, device=gpu) for number in range(5)]
    expected = [block.clone() for block in blocks]
    loader = Loader([[block] for block in blocks], gpu)
    copies = loader._copies
    assert copies is not None

    def read(number: int) -> Tensor:
        with torch.cuda.stream(torch.cuda.current_stream() if late == "computing" else copies):
            torch.cuda._sleep(10**8)  # cycles
        loader.load(number)
        return blocks[number].clone()

    passes = [0, 1, 2, 3, 4, 4, 3, 2, 1]  # the last one loads block 0 ahead
    found = [read(number) for number in passes]
    loader.load_all()
    after = [block.clone() for block in blocks]
    assert all(torch.equal(tensor, expected[number]) for number, tensor in zip(passes, found, strict=True))
    assert all(torch.equal(tensor, block) for tensor, block in zip(after, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "method",
    [
        "rosa",
        "rosa method.targets=all-linear method.resample_every=2 method.resample_unit=steps",
        "rosa method.targets=all-linear method.resample_every=2 method.resample_unit=steps base_dtype=bfloat16",
        "rosa method.targets=all-linear method.resample_every=2 method.resample_unit=steps base_dtype=nf4",
        "relora method.targets=all-linear method.resample_every=2 method.resample_unit=steps",
        "galore method.update_every=3",
        "ft",
        "lisa",
        "badam",
    ],
)
def test_a_run_on_a_gpu_with_both_ends_like_a_plain_one(in_folder: None, method: str) -> None:
    on_gpu = [word for word in RUN if not word.startswith("device=")] + ["device=cuda", "epochs=2"]
    on_gpu += f"method={method}".split()
    if "nf4" in method:
        pytest.importorskip("bitsandbytes")
    plain = run(on_gpu)
    both = run([*on_gpu, "gradient_checkpointing=true", "offload=layers"])
    assert both.scores is not None
    assert plain.scores is not None
    losses = [[epoch.train_loss for epoch in one.scores.epochs] for one in (both, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert both.resamples == plain.resamples
    assert both.scores.selection_score == pytest.approx(plain.scores.selection_score, abs=0.05)
