"""Language modelling: held-out loss, its floor where the source is known, and what is forgotten of another text."""

from rosa_bench.records.record import RunRecord
from rosa_bench.report.cells.selection.select import Group
from rosa_bench.report.cells.words.facts import POSITIVE, fact, is_text
from rosa_bench.report.tables.building.arms import Measure, score, table_of_arms
from rosa_bench.report.tables.building.table import Table
from rosa_bench.report.writers.text import thousands

INTRO = [
    "Loss: nats per token of held-out text, lower is better. Floor: the entropy of the text's source, where it is "
    "known; no model can beat it on average. Forgetting: how much the loss on another text has risen from before to "
    "after training, in nats per token."
]
MEASURES = (
    score("Loss", "loss", possible=lambda _: POSITIVE),
    score("Bits per character", "bits_per_character", possible=lambda _: POSITIVE),
    Measure(
        title="Forgetting",
        key="forgetting",
        value=lambda run: run.forgetting.rise if run.forgetting else None,
        form="{:+.3f}",
    ),
)


def build(groups: list[Group]) -> Table:
    """Build the table: one section per setting and text."""
    return table_of_arms(
        groups, is_text, MEASURES, _facts, name="language", title="Language modelling", intro=INTRO
    )  # fmt: skip


def _facts(run: RunRecord) -> dict[str, str]:
    characters, tokens, entropy = (fact(run, name) for name in ("characters", "tokens", "entropy"))
    scored = [
        *([f"{thousands(int(tokens))} tokens"] if tokens else []),
        *([f"{thousands(int(characters))} characters"] if characters else []),
    ]
    return {
        "Held-out text": ", ".join(scored),
        **({"Floor": f"{entropy:.4g} nats per token"} if entropy else {}),
        **({"Forgetting on": run.forgetting.task} if run.forgetting else {}),
    }
