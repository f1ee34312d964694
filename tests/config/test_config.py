import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rosa_bench.config.build import build
from rosa_bench.config.composing.compose import composing, default_for
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.files.folder import conf_folder
from rosa_bench.config.schema import RunConfig
from rosa_bench.layers.low_rank import low_rank_layers
from rosa_bench.methods.adapted import AdapterMethod, LowRankMethod
from rosa_bench.methods.lora import Lora
from rosa_bench.methods.rosa import Rosa
from rosa_bench.metrics.load import load as load_metric
from rosa_bench.models.spec import Encoder, Model
from rosa_bench.optim.adamw import AdamW
from rosa_bench.system.errors import UserError
from rosa_bench.tasks.classification.own import OwnTask
from rosa_bench.tasks.classification.task import TextTask
from rosa_bench.tasks.generation.task import GenerationTask

Compose = Callable[..., RunConfig]

# The paper's GLUE and SuperGLUE tasks, with the score reported in its section 6.2.
PAPER_SCORES = {
    "cola": "matthews_correlation",
    "mrpc": "accuracy",
    "qnli": "accuracy",
    "rte": "accuracy",
    "mnli": "accuracy",
    "sst2": "accuracy",
    "stsb": "pearson",
    "boolq": "accuracy",
    "wic": "accuracy",
}
PROTOCOLS = {
    "paper": {
        "train_head": False,
        "train_biases": True,
        "optimizer_reset": "all",
        "held_out_rows": 0.0,
    },
    "fair": {
        "train_head": True,
        "train_biases": False,
        "optimizer_reset": "factors",
        "held_out_rows": 0.1,
        "held_out_max": 1000,
    },
}


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))
    assert found, group
    return found


# Every file of the configuration folder


@pytest.mark.parametrize("name", names("task"))
def test_a_task_composes_and_its_metric_computes_the_reported_score(compose: Compose, name: str) -> None:
    task = compose(f"task={name}").task
    assert task.name == name
    assert task.title
    assert set(task.rows) <= set(task.splits)
    match task:
        case OwnTask():  # its metric depends on the labels
            return
        case TextTask():
            assert task.num_outputs == max(1, len(task.labels))
            given: dict = {"predictions": [0, 1, 1], "references": [0, 1, 0]}
        case GenerationTask():
            assert {task.train, task.validation} < set(task.splits)
            given = {"predictions": ["a b c d"], "references": [["a b c e", "b"]]}
        case _:  # a task that computes its own score
            return
    figures = load_metric(task.metric).module.compute(**given)
    assert figures is not None
    assert task.score in figures


@pytest.mark.parametrize("name", sorted(set(names("model")) - {"auto"}))  # which needs a model of the user's
def test_a_model_composes(name: str) -> None:
    with composing() as composer:
        raw = composer.compose((f"model={name}",))
    model = build(Model, raw.model, at="model", default=Encoder)
    assert model.name == name
    assert model.title
    assert model.licence
    assert model.parameters is None or model.parameters > 0
    re.compile(model.attention)
    re.compile(model.head)


@pytest.mark.parametrize("protocol", names("protocol"))
@pytest.mark.parametrize("name", names("method"))
def test_a_method_composes_with_a_learning_rate_for_every_protocol(compose: Compose, name: str, protocol: str) -> None:
    config = compose(f"method={name}", f"protocol={protocol}")
    assert config.method.name == name
    assert config.protocol.name == protocol
    assert config.lr == config.method.default_lr[protocol] > 0
    assert set(config.method.default_lr) == set(names("protocol"))


@pytest.mark.parametrize("name", names("experiment"))
def test_every_job_of_an_experiment_composes(compose: Compose, name: str) -> None:
    sweep = OmegaConf.select(OmegaConf.load(conf_folder() / "experiment" / f"{name}.yaml"), "hydra.sweeper.params")
    parser = OverridesParser.create()
    swept = [parser.parse_override(f"{key}={value}") for key, value in (sweep or {}).items()]
    choices = [
        [f"{one.key_or_group}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line or ""]
        for one in swept
    ]
    first = [options[0] for options in choices]
    jobs = {tuple(first)} | {
        (*first[:place], option, *first[place + 1 :]) for place, options in enumerate(choices) for option in options
    }
    for job in sorted(jobs):  # every value of each swept key, with the first value of the others
        compose(f"+experiment={name}", *job)


@pytest.mark.parametrize("name", names("experiment"))
def test_an_experiments_header_states_its_command_and_cost(name: str) -> None:
    text = (conf_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.partition("\ndefaults:")[0].splitlines()
    head = " ".join(line.removeprefix("#") for line in lines if line.startswith("#"))
    assert re.search(rf"rosa-bench .*\+experiment={name}\b", head)
    assert "Reproduces" in head
    assert "Cost" in head


# The recipe and the protocols


@pytest.mark.parametrize("task", PAPER_SCORES)
def test_the_recipe_matches_the_paper(compose: Compose, task: str) -> None:
    config = compose(f"task={task}")  # section 6.2 of the paper
    assert (config.epochs, config.max_length) == (10, 512)
    assert config.batch_size in (16, 32)
    assert compose("task=cola").batch_size == 32
    optimizer = config.optimizer
    assert isinstance(optimizer, AdamW)
    assert tuple(optimizer.betas) == (0.9, 0.98)
    assert (optimizer.eps, optimizer.weight_decay, optimizer.clip_norm) == (1e-6, 0.1, None)
    assert optimizer.warmup(10_000) == 600
    assert (config.model.name, config.protocol.name) == ("roberta_base", "paper")
    assert config.task.score == PAPER_SCORES[task]


@pytest.mark.parametrize(("fraction", "steps", "total", "expected"), [
    (0.06, None, 1000, 60), (0.06, None, 1001, 61), (0.0, None, 10, 0), (1.0, None, 7, 7), (0.06, 500, 1000, 500),
    (0.06, 0, 1000, 0), (0.07, None, 100, 7), (0.28, None, 25, 7), (1e-5, None, 100_000, 1),
])  # fmt: skip
def test_warmup_is_a_fraction_rounded_up_unless_it_is_given_in_steps(
    compose: Compose, fraction: float, steps: int | None, total: int, expected: int
) -> None:
    optimizer = replace(compose().optimizer, warmup_fraction=fraction, warmup_steps=steps)
    assert optimizer.warmup(total) == expected


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_matches_the_specification(compose: Compose, name: str) -> None:
    protocol = compose(f"protocol={name}").protocol  # README.md, The two protocols
    assert {key: getattr(protocol, key) for key in PROTOCOLS[name]} == PROTOCOLS[name]


def test_every_protocol_is_specified() -> None:
    assert set(names("protocol")) == set(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", names("method"))
def test_methods_take_their_defaults_from_the_protocol(compose: Compose, name: str, protocol: str) -> None:
    method = compose(f"method={name}", f"protocol={protocol}").method
    expected = PROTOCOLS[protocol]
    if hasattr(method, "train_head"):
        assert getattr(method, "train_head") == expected["train_head"]  # noqa: B009
    if isinstance(method, AdapterMethod):
        assert method.train_biases == expected["train_biases"]
        assert method.targets == "attention"
    if isinstance(method, LowRankMethod):
        assert (method.rank, method.scale) == (8, 1.0)
    if name == "lora":  # the methods made of it have their own initialisation
        assert isinstance(method, Lora)
        assert method.init == {"paper": "normal", "fair": "kaiming"}[protocol]
    if name == "rosa":
        assert isinstance(method, Rosa)
        assert (method.select, method.init, method.resample_every, method.resample_unit) == (
            "random",
            "svd",
            {"paper": 2, "fair": 0}[protocol],
            "epochs",
        )


def test_rank_and_seed_reach_the_method_and_its_layers(compose: Compose, tiny_model: Callable) -> None:
    for name in ("lora", "rosa"):
        model = tiny_model("tiny_roberta")
        method = compose("task=grammar", "model=tiny_roberta", f"method={name}", "rank=3", "seed=7").method
        assert method.seed == 7
        method.attach(model)
        layers = low_rank_layers(model)
        assert len(layers) == 2 * 4  # two blocks of query, key, value and output
        assert {layer.a.shape[1] for layer in layers} == {3}


@pytest.mark.parametrize("order", [0, 1])
def test_the_task_chooses_the_model_unless_one_is_given(compose: Compose, order: int) -> None:
    given = ["task=mrpc", "model=tiny_bert"]
    assert compose("task=mrpc").model.name == "roberta_base"
    assert compose(*(reversed(given) if order else given)).model.name == "tiny_bert"


def test_a_given_lr_overrides_the_default(compose: Compose) -> None:
    for name in names("method"):
        assert compose(f"method={name}", "lr=0.125").lr == 0.125


def test_half_decades_stay_on_one_grid() -> None:
    """Every starting point leads to the same grid. A learning rate without half-decades is used unchanged."""
    grid = [6e-5, 2e-4, 6e-4, 2e-3, 6e-3, 2e-2, 6e-2]
    for start, lr in enumerate(grid):
        steps = range(-start, len(grid) - start)
        assert [parse(changed(f"lr={lr}", f"lr_half_decades={step}")).lr for step in steps] == grid
    assert parse(changed("lr=0.00123", "lr_half_decades=0")).lr == 0.00123
    assert parse(changed("lr_half_decades=2", method="lora")).lr == pytest.approx(10 * parse(changed(method="lora")).lr)


# Wrong values: a one-line message with the key, the value and the choices

WRONG = [
    ("rank=0", "rank=0", "at least 1"),
    ("rank=-1", "rank=-1", "at least 1"),
    ("rank=1.5", "rank", "1.5", "whole number"),
    ("rank=many", "rank", "many", "whole number"),
    ("lr_half_decades=21", "lr_half_decades=21", "at most 20"),
    ("lr_half_decades=-21", "lr_half_decades=-21", "at least -20"),
    ("lr_half_decades=0.5", "lr_half_decades", "0.5", "whole number"),
    ("lr=0", "lr=0.0", "above 0"),
    ("lr=-1e-3", "lr=-0.001", "above 0"),
    ("lr=nan", "lr=nan", "above 0"),
    ("lr=inf", "lr=inf", "finite"),
    ("lr=null", "lr=null has no meaning"),
    ("seed=-1", "seed=-1", "at least 0"),
    ("seed=null", "seed=null has no meaning"),
    ("epochs=0", "epochs=0", "at least 1"),
    ("batch_size=0", "batch_size=0", "at least 1"),
    ("accumulate=0", "accumulate=0", "at least 1"),
    ("accumulate=33", "accumulate=33", "32"),
    ("max_length=0", "max_length=0", "at least 1"),
    ("limit_train=0", "limit_train=0", "at least 1"),
    ("limit_eval=-5", "limit_eval=-5", "at least 1"),
    ("precision=float16", "precision=float16", "auto, float32, bfloat16"),
    ("compile=fast", "compile=fast", "none, default, max"),
    ("compile=true", "compile=True", "not a text"),
    ("compile=null", "compile=null has no meaning"),
    ("cuda_graphs=often", "cuda_graphs=often", "auto, always, never"),
    ("group_by_length=perhaps", "group_by_length", "perhaps", "true or false"),
    ("resume=maybe", "resume=maybe", "auto, never"),
    ("device=tpu", "device=tpu", "auto, cpu, cuda, cuda:N"),
    ("save_model=perhaps", "save_model", "perhaps", "true or false"),
    ("protocol.optimizer_reset=some", "protocol.optimizer_reset=some", "factors, all"),
    ("protocol.held_out_rows=1", "protocol.held_out_rows=1.0", "below 1"),
    ("protocol.held_out_rows=-0.1", "protocol.held_out_rows=-0.1", "at least 0"),
    ("protocol.held_out_max=0", "protocol.held_out_max=0", "at least 1"),
    ("protocol.train_head=often", "train_head", "often", "true or false"),
    ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]", "two numbers"),
    ("optimizer.betas=[0.9,1]", "optimizer.betas=[0.9, 1.0]", "below 1"),
    ("optimizer.eps=-1", "optimizer.eps=-1", "at least 0"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1", "at least 0"),
    ("optimizer.warmup_fraction=1.5", "optimizer.warmup_fraction=1.5", "at most 1"),
    ("optimizer.warmup_steps=-1", "optimizer.warmup_steps=-1", "at least 0"),
    ("optimizer.schedule=step", "optimizer.schedule=step", "linear, cosine, constant"),
    ("optimizer.clip_norm=0", "optimizer.clip_norm=0", "above 0"),
    ("optimizer.momentum=0.9", "optimizer.momentum"),
    ("method.rnak=3", "method.rnak"),
    ("method.select=middle", "method.select=middle", "random, block, top, bottom"),
    ("method.init=random", "method.init=random", "svd, svd_add, zero"),
    ("method.init=svd_add", "method.init=svd_add", "method.resample_every=0"),
    ("method.resample_every=-1", "method.resample_every=-1", "at least 0"),
    ("method.resample_unit=days", "method.resample_unit=days", "epochs, steps"),
    ("method.targets=(", "method.targets=(", "regular expression"),
    ("method.rank=0", "rank=0", "at least 1"),
    ("method._target_=os.path", "method._target_=os.path", "Method"),
    ("method._target_=rosa_bench.no.where", "method._target_=rosa_bench.no.where", "import"),
    ("task.colour=red", "task.colour"),
    ("task.text=[]", "task.text=[]", "one column"),
    ("task.labels=[]", "cola", "labels", "interval"),
    ("model.hub=null", "roberta_base", "model.hub, model.wheel, model.path or model.random"),
]


@cache
def composed(method: str) -> DictConfig:
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return hydra.compose("config", overrides=[f"method={method}"])


def changed(*overrides: str, method: str = "rosa") -> DictConfig:
    """Return the default configuration with some values changed, without composing it again."""
    free = OmegaConf.create(OmegaConf.to_container(composed(method)))
    return OmegaConf.merge(free, OmegaConf.from_dotlist(list(overrides)))  # pyrefly: ignore[bad-return]


@pytest.mark.parametrize(("override", "words"), [(row[0], row[1:]) for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_value_is_reported_in_one_line(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as raised:
        parse(changed(override))
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("method", "override", "words"), [
    ("lora", "method.init=svd", ("method.init=svd", "kaiming, normal")),
    ("lora", "method.alpha=0", ("method.alpha=0", "above 0")),
    ("ia3", "method.side=left", ("method.side=left", "input, output")),
    ("ft", "method.rank=4", ("method.rank",)),
])  # fmt: skip
def test_a_wrong_value_of_another_method_is_reported(method: str, override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as raised:
        parse(changed(override, method=method))
    for word in words:
        assert word in str(raised.value)


def test_the_default_configuration_is_valid() -> None:
    for method in ("rosa", "lora", "ia3", "ft"):
        parse(changed("seed=1", method=method))  # otherwise the tests above could not fail


@pytest.mark.parametrize("key", ["pad_to_max", "group_by_length"])
def test_text_settings_are_rejected_for_tasks_without_texts(compose: Compose, key: str) -> None:
    assert getattr(compose("task=grammar", f"{key}=true"), key)
    assert getattr(compose("task=restaurants", "model=tiny_gpt2", f"{key}=true"), key)
    assert not getattr(compose("task=synthetic", "model=mlp1"), key)
    with pytest.raises(UserError) as raised:
        compose("task=synthetic", "model=mlp1", f"{key}=true")
    message = str(raised.value)
    assert "\n" not in message
    for word in (f"{key}=true", "task=synthetic", f"{key}=false"):
        assert word in message


@pytest.mark.parametrize(("key", "choices"), [
    ("compile", ["none", "default", "max"]), ("cuda_graphs", ["auto", "always", "never"]),
    ("group_by_length", [False, True]),
])  # fmt: skip
def test_every_speed_option_is_accepted_and_the_first_is_the_default(key: str, choices: list[object]) -> None:
    assert [getattr(parse(changed(f"{key}={choice}")), key) for choice in choices] == choices
    assert getattr(parse(changed("seed=1")), key) == choices[0]


# A wrong value that passes the configuration would fail later, in the middle of a run.


@pytest.mark.parametrize("override", [f"seed={2**32}", f"seed={2**70}", "device=auto:1", "device=cpu:gpu"])
def test_a_value_that_torch_or_numpy_would_reject_is_rejected_early(override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        parse(changed(override))


def test_values_at_the_bounds_are_accepted(compose: Compose) -> None:
    config = compose(
        "rank=1", "seed=0", "epochs=1", "batch_size=1", "max_length=8", "limit_train=1", "limit_eval=null",
        "optimizer.warmup_fraction=1", "optimizer.eps=0", "optimizer.warmup_steps=0", "protocol.held_out_rows=0.99",
    )  # fmt: skip
    assert config.limit_eval is None
    assert math.isfinite(config.lr)


def test_a_configuration_is_immutable(compose: Compose) -> None:
    config = compose()
    for field in fields(config):
        with pytest.raises(AttributeError):
            setattr(config, field.name, getattr(config, field.name))


@pytest.mark.parametrize(
    ("task", "protocol", "every"),
    [
        ("cola", "paper", 2), ("cola", "fair", 0), ("e2e_nlg", "paper", 1), ("e2e_nlg", "fair", 0),
        ("phonebook", "paper", 1), ("phonebook", "fair", 0), ("synthetic", "paper", 20), ("synthetic", "fair", 20),
    ],
)  # fmt: skip
def test_rosas_period_depends_on_protocol_and_recipe(compose: Compose, task: str, protocol: str, every: float) -> None:
    method = compose(f"task={task}", "method=rosa", f"protocol={protocol}").method
    assert isinstance(method, Rosa)
    assert method.resample_every == every


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"fair": {"glue": 3, "otherwise": 4}, "glue": 5}, 3),
        ({"fair": {"e2e": 3, "otherwise": 4}, "glue": 5}, 4),
        ({"fair": {"e2e": 3}, "glue": 5}, 5),  # what the table inside lacks is looked up outside
        ({"paper": 3, "otherwise": {"glue": 6}}, 6),
        ({"fair": None, "glue": 5}, None),
    ],
)
def test_an_entry_of_a_table_of_defaults_may_be_a_table(table: dict[str, Any], found: float | None) -> None:
    group = {"name": "mine", "default_every": table}
    root = OmegaConf.create({"method": group, "protocol": {"name": "fair"}, "recipe": "glue"})
    assert default_for("method.every", _root_=root) == found
