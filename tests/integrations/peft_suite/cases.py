"""What PEFT's own tests are run with, in place of their lists of methods. They import this file by its name."""

from rosa_bench.integrations.peft import RosaConfig

TEST_CASES = [
    ("ROSA one layer", "MLP", RosaConfig, {"target_modules": "lin0"}),
    ("ROSA two layers", "MLP", RosaConfig, {"target_modules": ["lin0", "lin1"], "r": 2}),
    ("ROSA and a whole layer", "MLP", RosaConfig, {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    ("ROSA with dropout", "MLP", RosaConfig, {"target_modules": ["lin0"], "lora_dropout": 0.1}),
    ("ROSA in Conv1D", "EmbConv1D", RosaConfig, {"target_modules": ["conv1d"], "r": 1}),
    ("ROSA balanced", "MLP2", RosaConfig, {"target_modules": ["lin0"], "r": 2, "init": "balanced"}),
]
LOUD = {"init_lora_weights": False}
MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES = [
    ("ROSA Same", "rosa", RosaConfig, {"target_modules": ["lin0"], **LOUD}, {"target_modules": ["lin0"], **LOUD}),
    (
        "ROSA Different", "rosa", RosaConfig,
        {"target_modules": ["lin0"], **LOUD}, {"target_modules": ["lin1"], "r": 2, **LOUD},
    ),
]  # fmt: skip
CONFIG_CASE = (RosaConfig, {})
