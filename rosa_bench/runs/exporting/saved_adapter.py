"""The LoRA adapter that a run leaves in its output folder, exact, in PEFT's files, with the tokenizer.

``run.json`` beside it says which run it is of, and what loading the base model again needs.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from transformers import PreTrainedModel

from rosa_bench.adapters.lora import PlainWeights, lora_adapter
from rosa_bench.adapters.peft_format import write_peft
from rosa_bench.layers.exact import Update
from rosa_bench.models.spec import Decoder
from rosa_bench.runs.resolve import ResolvedRun
from rosa_bench.system.files.folders import remove_unfinished
from rosa_bench.tasks.prepared import PreparedTask

log = logging.getLogger(__name__)

RUN = "run.json"


class RunFacts(msgspec.Struct, kw_only=True):
    """The content of ``run.json``.

    run          the run's id
    seed         from which its base model's weights were drawn, if they are random
    num_outputs  of an encoder's head; None for a decoder
    labels       names of these outputs, in order
    """

    run: str
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]  # what `set_seed` takes
    num_outputs: Annotated[int, msgspec.Meta(ge=1)] | None
    labels: list[str]


def save_adapter(
    resolved: ResolvedRun, problem: PreparedTask, plain: PlainWeights, known: Mapping[str, Update]
) -> None:
    """Write the adapter of a run whose model is merged."""
    adapter = lora_adapter(plain, problem.model, head=resolved.config.method.head, known=known)

    def write(model: PreTrainedModel, folder: Path) -> None:
        written = write_peft(adapter, folder, base=base_settings(resolved, problem))
        facts = RunFacts(run=resolved.id, seed=resolved.config.seed, num_outputs=None, labels=[])
        if not isinstance(resolved.config.model, Decoder):
            facts.num_outputs, facts.labels = model.config.num_labels, list((model.config.id2label or {}).values())
        (folder / RUN).write_bytes(msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
        log.info("adapter of rank %d saved in %s", written.rank, resolved.saved_adapter)

    remove_unfinished(resolved.saved_adapter)
    problem.save_model(resolved.saved_adapter, write)


def base_settings(resolved: ResolvedRun, problem: PreparedTask) -> dict[str, Any]:
    """Return PEFT's settings about the base model: its id on the hub and its commit, if it has them."""
    model = resolved.config.model
    decoder = isinstance(model, Decoder)
    return {
        "base_model_name_or_path": model.hub,
        "revision": problem.commit or model.revision,
        "task_type": "CAUSAL_LM" if decoder else "SEQ_CLS",
    }
