"""Export a run: its LoRA adapter, exact or compressed, or the merged model, as folders that others load."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from transformers import PreTrainedModel

from rosa_bench.adapters.lora import LoraAdapter, apply_adapter
from rosa_bench.adapters.peft_format import Written, read_peft, write_peft
from rosa_bench.config.build import typed
from rosa_bench.config.groups import kinds, names_in
from rosa_bench.methods.peft.files import CONFIG, TENSORS
from rosa_bench.models.base_dtype import round_to
from rosa_bench.models.decoder import load_decoder
from rosa_bench.models.encoder import load_encoder
from rosa_bench.models.spec import Decoder, Encoder, Model
from rosa_bench.models.weights.hub import fetch_weights
from rosa_bench.models.weights.source import locate
from rosa_bench.records.record import RunRecord
from rosa_bench.runs.exporting.saved_adapter import RUN, RunFacts
from rosa_bench.system.errors import UserError, one_of
from rosa_bench.system.files.folders import check_replaceable, new_folder
from rosa_bench.system.seeds import set_seed
from rosa_bench.system.text.printable import printable

TASK_TYPES = ("CAUSAL_LM", "SEQ_CLS")  # PEFT's names of the tasks
CARD = "README.md"
WRITTEN = (CARD, ".eval_results", "config.json", "generation_config.json", "model*.safetensors", "model.*.index.json")
SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to export of a run.

    kind      ``lora`` (for servers), ``peft`` (exact) or ``merged``
    adapter   folder in which the run has left its adapter
    folder    the new folder
    max_rank  largest rank of the adapter; None: exact for ``peft``, and what servers take for ``lora``
    base      folder with the base model, if the run read it from one
    sign      words in the README.md of every export, by which one that may be overwritten is known
    """

    kind: str
    adapter: Path
    folder: Path
    max_rank: int | None = None
    base: str | None = None
    overwrite: bool = False
    sign: str


class Exported(NamedTuple):
    """An export: its folder, size and time, and how its adapter was written, if it has one."""

    folder: Path
    size_bytes: int
    time_s: float
    written: Written | None


def check_exportable(record: RunRecord, request: Request) -> None:
    """Raise `UserError` unless the run has left an adapter that can be exported, and nothing is overwritten."""
    if record.status == "failed":
        raise UserError(f"{record.id} failed ({record.error}), so it has left nothing to export; export another run")
    if record.status != "completed":
        raise UserError(f"{record.id} is {record.status}; complete it first")
    name = record.settings.method.name
    if not all(kind.adapts_layers for kind in kinds("method", name)):
        raise UserError(
            f"method={name} has no LoRA adapter, so there is nothing to export; save_model=true saves its model"
        )
    if not (request.adapter / CONFIG).is_file():
        raise UserError(
            f"{request.adapter} has no adapter; run {record.id} again with save_adapter=true, or name the folder of "
            "its outputs with output_dir="
        )
    _check_folder(request)


def _check_folder(request: Request) -> None:
    """Raise `UserError` unless the folder is new, or may be overwritten and holds an export and nothing else.

    A base model has a README.md too, and a repository of the user's has a history.
    """
    remedy = "use another folder=, or overwrite=true"
    check_replaceable(request.folder, overwrite=request.overwrite, marks=(CARD,), remedy=remedy)
    if not request.folder.is_dir() or not any(request.folder.iterdir()):
        return
    if request.sign not in (request.folder / CARD).read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{request.folder} is not an export, so it is not replaced; use another folder=")
    known = (*WRITTEN, *(file.name for file in request.adapter.iterdir()))
    for path in sorted(request.folder.iterdir()):
        if not any(fnmatchcase(path.name, name) for name in known):
            raise UserError(f"{path} would be lost, because this export does not write it; move it, or use folder=")


def export(
    record: RunRecord, request: Request, card: Callable[[str, str | None, list[str]], dict[str, str]]
) -> Exported:
    """Write an export into a new folder, atomically. ``card`` returns its further files: name -> text.

    It is given PEFT's name of the task, the base model's name, and lines about the export.
    """
    check_exportable(record, request)
    started = time.perf_counter()
    adapter, config = read_peft(request.adapter)
    one_of(f"{request.adapter / CONFIG}: task_type", str(config.get("task_type")), TASK_TYPES)
    facts = facts_of(request.adapter, record)
    model = merged_model(record, request, adapter, facts) if request.kind == "merged" else None
    written = None
    with new_folder(request.folder) as new:
        if model is not None:
            model.save_pretrained(new)
        else:
            base = {key: config.get(key) for key in ("base_model_name_or_path", "revision", "task_type")}
            limit = request.max_rank or (SERVER_RANKS[-1] if request.kind == "lora" else None)
            written = write_peft(adapter, new, base=base, max_rank=limit)
        _copy_tokenizer(request.adapter, new)
        texts = card(
            config["task_type"],
            config.get("base_model_name_or_path"),
            notes(request, adapter, written, record, labels=facts.labels),
        )
        for name, text in texts.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text, encoding="utf-8")
    size = sum(file.stat().st_size for file in request.folder.rglob("*") if file.is_file())
    return Exported(request.folder, size, time.perf_counter() - started, written)


def notes(
    request: Request, adapter: LoraAdapter, written: Written | None, record: RunRecord, *, labels: Sequence[str]
) -> list[str]:
    """Return lines about an export: its rank, what compression has lost, classes, base, and the flag for a server."""
    if written is None:
        return ["Merged weights: load the folder with transformers, without rosa_bench or PEFT."]
    lines = [f"LoRA adapter of rank {written.rank}: exact up to rounding."]
    if written.error > 0:
        name, error = written.worst
        lines = [
            f"LoRA adapter of rank {written.rank}, compressed from rank {written.full_rank}: "
            f"{100 * written.error:.3g} % of the update is lost (Frobenius norm); most in {name}, {100 * error:.3g} %."
        ]
    if len(labels) > 1:  # PEFT's files have no place for them
        lines.append(f"Classes, in the order of the outputs: {', '.join(map(printable, labels))}.")
    lines += base_lines(record)
    if request.kind == "lora":
        lines.append(server_line(adapter, written.rank))
    return lines


def base_lines(record: RunRecord) -> list[str]:
    """Return what a user of an adapter must know about the base model that it was trained on."""
    if record.model.source == "random":
        return ["The base model's weights are random, drawn from the run's seed; to=merged holds them."]
    lines = []
    if (kind := record.model.get("dequantised_from")) is not None:
        lines.append(f"It was trained on weights that were dequantised from {kind}, not on the original ones.")
    if (dtype := record.setting("base_dtype", "float32")) != "float32":
        lines.append(f"It was trained on linear layers rounded to {dtype}; to=merged adds it to the rounded weights.")
    return lines


def server_line(adapter: LoraAdapter, rank: int) -> str:
    """Return the flag with which vLLM serves an adapter, or why it does not."""
    if adapter.heads or adapter.biases:
        what = "a trained head" if adapter.heads else "trained biases"
        return f"vLLM does not serve it, because it has {what}; load it with PEFT, or export to=merged"
    fitting = next((one for one in SERVER_RANKS if one >= rank), None)
    if fitting is None:
        return f"vLLM serves ranks up to {SERVER_RANKS[-1]}: export again with max_rank={SERVER_RANKS[-1]}"
    return f"vLLM: vllm serve BASE --enable-lora --max-lora-rank {fitting} --lora-modules NAME=FOLDER"


def merged_model(record: RunRecord, request: Request, adapter: LoraAdapter, facts: RunFacts) -> PreTrainedModel:
    """Return the base model of a run with its adapter added. Raises `UserError` if its weights are not at hand."""
    if record.model.source == "path" and request.base is None:
        raise UserError("the run read its model from a folder, which records do not name; name it with base=FOLDER")
    values = dict(record.config["model"])
    if request.base is not None:
        values["path"] = request.base  # first of all, because it may be the model's only source
    name = record.settings.model.name
    own = Decoder if "lm_head" in values else Encoder  # of a model without a yaml here
    spec: Model = typed(next(iter(kinds("model", name))) if name in names_in("model") else own, values, at="model")
    source = fetch_weights(spec, locate(spec), commit=record.model.get("commit"))
    known = {key: value for key, value in record.model.items() if key not in ("source", "commit", "revision")}
    if differing := [key for key, value in known.items() if source.identity.get(key) != value]:
        raise UserError(
            f"these weights of model={name} are not those of the run ({differing[0]} differs); name the folder that it "
            "used with base="
        )
    set_seed(facts.seed)  # from which random weights are drawn
    if isinstance(spec, Decoder):
        model = load_decoder(spec, source).model
    else:
        assert isinstance(spec, Encoder)
        model = load_encoder(spec, source, num_outputs=facts.num_outputs or 1, labels=facts.labels).model
    if (base_dtype := record.setting("base_dtype", "float32")) != "float32":
        round_to(base_dtype, model, head=record.config["method"]["head"])
    with torch.no_grad():
        apply_adapter(model, adapter)
    return model


def facts_of(folder: Path, record: RunRecord) -> RunFacts:
    """Return what a run has written about its base model beside its adapter.

    Raises `UserError` if it is another run's, or if its values are not those that a run writes.
    """
    try:
        facts = msgspec.json.decode((folder / RUN).read_bytes(), type=RunFacts)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / RUN} cannot be read: {error}") from error
    if facts.num_outputs not in (None, max(1, len(facts.labels))):
        raise UserError(f"{folder / RUN} cannot be read: it has {len(facts.labels)} labels and another num_outputs")
    if facts.run != record.id:
        raise UserError(f"{folder} has the adapter of another run, {facts.run}")
    return facts


def _copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the other files of a run's adapter. Links are left out: they may lead to files that are not to be shared."""
    for file in source.iterdir():
        if file.is_file() and not file.is_symlink() and file.name not in (CONFIG, TENSORS, RUN):
            (target / file.name).write_bytes(file.read_bytes())
