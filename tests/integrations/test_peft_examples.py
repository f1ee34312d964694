"""The examples of PEFT and of convolutions in docs/examples run as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

pytestmark = pytest.mark.long


def output_of(script: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_round_trip_is_exact_for_an_encoder_gpt2_and_llama(tmp_path: Path) -> None:
    assert output_of("peft_round_trip.py", tmp_path).count("without us") == 3


def test_convolutions_train_by_lora_and_rosa(tmp_path: Path) -> None:
    scores = dict(re.findall(r"digits 5 to 9, (\w+) .*: ([\d.]+) %", output_of("convolutions.py", tmp_path)))
    assert float(scores["head_only"]) < 80
    assert min(float(scores[name]) for name in ("lora", "rosa", "ft")) > 90
