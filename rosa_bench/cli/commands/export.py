"""Export a run as a LoRA adapter or as a merged model, with a model card, for PEFT, transformers and servers.

Usage: rosa-bench export RUN [to=lora|merged|peft] [KEY=VALUE ...]

RUN is a run's id, its beginning or its last digits, the path of its record, or last. The run must have been made with
save_adapter=true. Both lora and peft are in PEFT's format; peft is exact, and lora has a rank that vLLM serves, at most
512. A folder that exists is not overwritten, unless it holds an earlier export alone and you say overwrite=true. If
the new export fails, the earlier one stays.

Examples:
  rosa-bench export cola-roberta_base-rosa-r8-lr0.002-s0-1a2b3c4d5e to=peft
  rosa-bench export results/runs/cola/roberta_base/RUN.json to=lora max_rank=64 folder=my_adapter
  rosa-bench export RUN to=lora max_rank=16 folder=my_adapter overwrite=true
  rosa-bench export RUN to=merged base=~/models/roberta-base
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rosa_bench.cli.messages import report_at_once
from rosa_bench.cli.options import parse_options
from rosa_bench.system.errors import UserError
from rosa_bench.system.setting import Checked, setting

if TYPE_CHECKING:
    from rosa_bench.records.record import RunRecord
    from rosa_bench.runs.exporting.export import Exported

KINDS = ("lora", "merged", "peft")


@dataclass(kw_only=True)
class Options(Checked):
    """Options of ``rosa-bench export``."""

    to: str = setting(
        "lora: an adapter for servers; peft: an exact one; merged: a model", default="peft", choices=KINDS
    )
    folder: str | None = setting("the new folder; default: exports/RUN/TO", default=None, is_folder=True)
    results_dir: str = setting("folder with the records in runs/", default="results", is_folder=True)
    output_dir: str = setting("the run's output_dir, where its adapter is", default="outputs", is_folder=True)
    max_rank: int | None = setting("largest rank of the adapter", default=None, at_least=1, at_most=10**6)
    base: str | None = setting("folder with the base model, if the run used model.path", default=None)
    overwrite: bool = setting("replace an earlier export in the folder", default=False)


def main(arguments: list[str]) -> None:
    """Export a run and print what was written."""
    words = [argument for argument in arguments if "=" not in argument]
    if len(words) != 1 or words[0].startswith("-"):
        raise UserError("usage: rosa-bench export RUN [to=lora|merged|peft]; rosa-bench export --help has examples")
    given = [argument for argument in arguments if "=" in argument]
    options = parse_options(Options, given)
    if options.to == "merged" and options.max_rank is not None:
        raise UserError("max_rank is for to=lora and to=peft; a merged model has no rank")
    report_at_once("exporting", arguments)
    record, records = found(words[0], options)
    exported, lines = exported_run(record, records, options)
    for line in (
        f"{options.to}: {exported.folder} ({exported.size_bytes / 1e6:.3g} MB, {exported.time_s:.1f} s)",
        *lines,
    ):
        print(line)


def found(run: str, options: Options) -> "tuple[RunRecord, list[RunRecord]]":
    """Return the record that ``run`` names, and all records of the results folder."""
    from rosa_bench.records.find import find_record
    from rosa_bench.records.store import load_records

    folder = Path(options.results_dir).expanduser()
    return find_record(run, folder)[0], list(load_records(folder))


def exported_run(record: "RunRecord", records: "list[RunRecord]", options: Options) -> "tuple[Exported, list[str]]":
    """Export a run. Return what was written, and lines about it."""
    from huggingface_hub.utils import yaml_dump

    from rosa_bench.report.writers.card import SIGN, Export, eval_entries, model_card, same_but_seed
    from rosa_bench.runs.exporting.export import Request, export

    said: list[str] = []

    def card(task_type: str, base: str | None, lines: list[str]) -> dict[str, str]:
        said.extend(lines)
        seeds = same_but_seed(record, records)
        texts = {"README.md": model_card(record, seeds, Export(options.to, task_type, base, tuple(lines)))}
        if entries := eval_entries(record):
            texts[f".eval_results/{record.settings.task.name}.yaml"] = yaml_dump(entries)
        return texts

    request = Request(
        kind=options.to,
        adapter=Path(options.output_dir).expanduser() / record.id / "adapter",
        folder=Path(options.folder or f"exports/{record.id}/{options.to}").expanduser(),
        max_rank=options.max_rank,
        base=options.base,
        overwrite=options.overwrite,
        sign=SIGN,
    )
    return export(record, request, card), said
