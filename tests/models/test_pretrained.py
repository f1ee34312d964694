"""Loading weights that someone else made."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rosa_bench.config.schema import RunConfig
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.spec import Encoder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.models.weights.source import locate
from rosa_bench.system.errors import UserError

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PretrainedConfig
class Config(PretrainedConfig):
    model_type = "hostile"
"""


def test_code_that_comes_with_a_model_is_refused_and_never_run(
    compose: Callable[..., RunConfig], tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "it ran"
    tiny_model("tiny_bert").save_pretrained(folder)
    byte_tokenizer(max_length=64).save_pretrained(folder)
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_type": "hostile", "auto_map": {"AutoConfig": "code.Config"}}))
    monkeypatch.setattr(builtins, "input", lambda *_: "y")  # a user who says yes to everything
    spec = compose("task=grammar", "model=tiny_bert", f"model.path={folder}").model
    assert isinstance(spec, Encoder)
    with pytest.raises(UserError, match="model=tiny_bert comes with Python code, which is never run"):
        load_encoder(spec, locate(spec), num_outputs=2)
    assert not mark.exists()
