"""``rosa-bench choose`` on three files as users have them, and what the exhaustive sweeps in the records say.

    python -m scripts.studies.choose make my_files data_dir=~/data       # write the files, print the commands
    python -m scripts.studies.choose compare outputs/choose/ID.json sst2    # compare an answer with the sweep

Writes folders with train and validation rows: SST-2 as csv with its labels as words, STS-B as tsv with numbers, and
BoolQ as jsonl with two columns of text. The rows are those of the tasks sst2, stsb and boolq. So the committed records
of these tasks are the sweep of every method, rank and learning rate, ranked by the rows held out of train, as `choose`
ranks them.
"""

import csv
import json
import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rosa_bench.choose.plan import Arm
from rosa_bench.choose.state import load_choice
from rosa_bench.data.reading.readers import stream_rows
from rosa_bench.records.record import RunRecord
from rosa_bench.records.store import load_records
from rosa_bench.report.cells.words.changes import changes_of
from rosa_bench.system.errors import UserError
from scripts.arguments import start

COMMITTED = Path(__file__).parents[2] / "results"
MINUTES = {"minilm": 20, "mpnet_base": 10}


class File(NamedTuple):
    """A user's file: where its rows are, its columns and those of the task, and its labels as words, if they are."""

    source: str
    ending: str
    columns: dict[str, str]
    words: tuple[str, ...] = ()

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row of the task as the user has it."""
        values = {mine: row[theirs] for mine, theirs in self.columns.items()}
        return {key: self.words[it] if self.words and isinstance(it, int) else it for key, it in values.items()}


FILES = {
    "sst2": File("glue/sst2", "csv", {"review": "sentence", "sentiment": "label"}, ("negative", "positive")),
    "stsb": File("glue/stsb", "tsv", {"first": "sentence1", "second": "sentence2", "similarity": "label"}),
    "boolq": File("super_glue/boolq", "jsonl", {"question": "question", "passage": "passage", "answer": "label"},
                  ("no", "yes")),
}  # fmt: skip


def main(*words: str) -> None:
    """Make the files, or compare an answer."""
    match words:
        case ["make", folder, source] if source.startswith("data_dir="):
            make(Path(folder), Path(source.partition("=")[2]).expanduser())
        case ["compare", plan, task]:
            compare(Path(plan), task)
        case _:
            raise UserError("write make FOLDER data_dir=FOLDER, or compare FILE.json TASK")


def make(folder: Path, data_dir: Path) -> None:
    """Write the three users' folders and print the commands."""
    for task, file in FILES.items():
        for split in ("train", "validation"):
            rows = [file.row(row) for row in stream_rows(data_dir / file.source / f"{split}.jsonl.gz")]
            place = folder / task / f"{split}.{file.ending}"
            place.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[file.ending](place, rows)
    for model, minutes in MINUTES.items():
        for task in FILES:
            print(shlex.join(["rosa-bench", "choose", f"data={folder / task}", f"model={model}", f"minutes={minutes}"]))


def write_csv(place: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with a head, quoted where needed."""
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(place: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with a head, with tabs between columns and no quotes."""
    lines = [list(rows[0]), *(map(str, row.values()) for row in rows)]
    place.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def write_lines(place: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


WRITERS = {"csv": write_csv, "tsv": write_tsv, "jsonl": write_lines}


def compare(plan: Path, task: str) -> None:
    """Print how the arms of a choice, and its recommendation, do in the committed sweep of ``task``."""
    choice = load_choice(plan)
    if choice is None:
        raise UserError(f"{plan} does not exist")
    own = load_records(plan.parents[1])
    models = [run.settings.model.name for run in own if run.settings.task.name in ("classify", "regress")]
    if not models:
        raise UserError(f"{plan.parents[1]} has no run of the choice")
    model = models[0]
    swept = sweep(load_records(COMMITTED), task, model)
    if not swept:
        raise UserError(f"the records have no sweep of {task} with {model} under protocol fair")
    best = max(swept, key=lambda arm: swept[arm][0])
    print(f"the sweep of {task}, {model}: {len(swept)} arms; best by held-out rows: {best}")
    print("arm, held out, dev, seeds")
    for arm in sorted(swept, key=lambda arm: -swept[arm][0]):
        held_out, dev, seeds = swept[arm]
        mark = "  <- best" if arm == best else ""
        print(f"  {arm}: {100 * held_out:.1f}, {100 * dev:.1f}, {seeds}{mark}")
    answer = plan.with_suffix(".md").read_text(encoding="utf-8").splitlines()[0]
    used = next((arm for arm in swept if str(arm) in answer), None)
    if used is None:
        print(f"{answer}: not in the sweep")
    else:
        print(f"{answer}: {100 * (swept[best][1] - swept[used][1]):.1f} points behind the best of the sweep on dev")


def sweep(records: Iterable[RunRecord], task: str, model: str) -> dict[Arm, tuple[float, float, int]]:
    """Return each arm's mean score on held-out rows and on dev, and its seeds, of runs with today's defaults."""
    found: dict[Arm, list[RunRecord]] = defaultdict(list)
    for run in records:
        settings = run.settings
        if (settings.task.name, settings.model.name, settings.protocol.name) != (task, model, "fair"):
            continue
        if run.status == "completed" and not changes_of(run):
            rank = run.setting("method.rank")
            found[Arm(settings.method.name, settings.lr, rank)].append(run)
    return {
        arm: (fmean(run.selection_score for run in runs), fmean(run.score for run in runs), len(runs))
        for arm, runs in found.items()
    }


if __name__ == "__main__":
    start(main, __doc__, rest=str)
