"""Every method through the program: a killed run goes on to the bit, and plain libraries load what it leaves."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from rosa_bench.config.files.folder import conf_folder
from rosa_bench.models.weights.random import byte_tokenizer
from rosa_bench.records.predictions import path as predictions_of
from rosa_bench.records.record import RunRecord, to_values
from rosa_bench.records.store import load_records

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning", "ignore:.*is_gradient_check")

METHODS = sorted(path.stem for path in (conf_folder() / "method").glob("*.yaml"))
RUN = ["epochs=2", "batch_size=16", "lr=1e-2", "checkpoint_s=0", "save_model=true", "device=cpu", "precision=float32"]
MEASURED = {"started_at", "time_s", "memory_bytes", "git"}  # of a record: what two equal runs may differ in
KILLED = """
import os, signal, sys
from rosa_bench.cli.main import main
from rosa_bench.training.checkpoint import Checkpoints

save, saved = Checkpoints.save, []

def dying(self, *state):
    save(self, *state)
    saved.append(state)
    if len(saved) == 7:  # after the second step of the second epoch: 4 steps and the end of the first are saved
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = dying
main(sys.argv[1:])
"""
# No module of ours is in this program. It prints the outputs of the model in each folder.
PLAIN = """
import json, sys
from pathlib import Path
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification as Auto, AutoTokenizer

torch.set_num_threads(1)
texts, base, *folders = json.load(sys.stdin)
for folder in folders:
    if Path(folder, "adapter_config.json").is_file():
        model = PeftModel.from_pretrained(Auto.from_pretrained(base, num_labels=1), folder)
    else:
        model = Auto.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        outputs = [model.eval()(**tokenizer(text, return_tensors="pt")).logits.item() for text in texts]
    print(json.dumps([folder, outputs]))
assert not any(name.startswith("rosa_bench") for name in sys.modules)
"""


def rows(start: int, count: int) -> list[dict[str, Any]]:
    numbers = range(start, start + count)
    return [{"text": f"{'good ' * (n % 7)}{'bad ' * (n % 5)}day {n}", "label": n % 7 - n % 5 / 2} for n in numbers]


@pytest.fixture
def places(here: Path, tiny_model: Callable[..., Any], loud: Callable[..., Any]) -> list[str]:
    """The settings that name a model's folder and rows of one's own, which are in the current folder."""
    logging.disable_progress_bar()  # it would be on stderr
    loud(tiny_model("tiny_roberta", num_outputs=1)).base_model.save_pretrained(here / "base")
    byte_tokenizer(max_length=512).save_pretrained(here / "base")
    (here / "rows").mkdir()
    for split, some in (("train", rows(0, 60)), ("validation", rows(60, 20))):
        (here / "rows" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in some))
    return ["task=regress", "data=rows", "model=tiny_roberta", "model.path=base"]


def left_by(results: Path, outputs: Path) -> tuple[RunRecord, dict[str, Any]]:
    """Return a run's record, and everything that it has left and that must not differ."""
    [record] = load_records(results)
    [path] = results.glob(f"runs/*/*/{record.id}.json")
    values = {key: value for key, value in to_values(record).items() if key not in MEASURED}
    for epoch in values["scores"]["epochs"]:
        del epoch["time_s"]
    files = {
        str(file.relative_to(outputs)): file.read_bytes()
        for file in outputs.rglob("*") if file.is_file() and file.suffix != ".lock"
    }  # fmt: skip
    predictions = predictions_of(path)
    return record, {**values, "files": files, "rows": predictions.read_text() if predictions.is_file() else None}


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_bit_and_what_it_leaves_is_its_model(
    rosa_bench: Callable[..., Any], here: Path, places: list[str], warm_python: list[str], method: str
) -> None:
    run = [*places, f"method={method}", *RUN]
    again = ["results_dir=again", "output_dir=kept"]
    refused = rosa_bench(*run, "save_adapter=true")
    if refused.status == 0:
        run.append("save_adapter=true")
    else:
        refused.assert_one_line_error(f"method={method}", "use ")
        if (refused := rosa_bench(*run)).status:
            refused.assert_one_line_error(f"method={method} is for decoders")
            return
    killed = subprocess.run([*warm_python, "-c", KILLED, *run, *again], cwd=here, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    continued = rosa_bench(*run, *again)
    assert (continued.status, "continuing from" in continued.out) == (0, True), continued.err
    (record, expected), (_, found) = left_by(here / "results", here / "outputs"), left_by(here / "again", here / "kept")
    assert found == expected

    folders = [f"outputs/{record.id}/model"]
    if run[-1] == "save_adapter=true":
        for kind in ("peft", "lora", "merged"):
            assert rosa_bench("export", record.id, f"to={kind}", *(["base=base"] if kind == "merged" else [])).err == ""
            folders.append(f"exports/{record.id}/{kind}")
    else:
        rosa_bench("export", record.id).assert_one_line_error(f"method={method} has no LoRA adapter", "save_model=true")
    if Path(folders[0], "adapter.json").is_file():  # ours alone; test_inserted.py loads it
        return
    job = json.dumps([[row["text"] for row in rows(60, 20)], "base", *folders])
    plain = subprocess.run([*warm_python, "-c", PLAIN], cwd=here, input=job, capture_output=True, text=True, check=True)
    predicted = json.loads(expected["rows"])["predictions"]
    assert max(predicted) - min(predicted) > 0.005  # otherwise every model would seem to be the same
    for folder, outputs in map(json.loads, plain.stdout.splitlines()):
        assert outputs == pytest.approx(predicted, rel=1e-4, abs=1e-5), folder
