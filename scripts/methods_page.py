"""Write docs/methods.md: every method with its paper and its size on two models.

    python -m scripts.methods_page

It is made from the yamls in conf/method and the shapes of the models; no weights are loaded. Run it after a method
has been added or changed.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from rosa_bench.cli.commands.methods import count, memory
from rosa_bench.config.composing.compose import Composer, composing
from rosa_bench.config.groups import names_in
from rosa_bench.runs.planning.catalogue import Entry, about, catalogue
from scripts.arguments import start

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
MODELS = {"roberta_base": "RoBERTa-base", "gpt2": "GPT-2"}
HEAD = """\
# Methods

<!-- Made by `python -m scripts.methods_page`; do not edit. -->

Every file in `conf/method` is one method, used as `method=NAME`. `rosa-bench methods` prints this table for any model
and setting, and `rosa-bench methods NAME` the settings of one method:

```bash
rosa-bench methods model=gpt2 rank=4 protocol=fair
rosa-bench methods rosa
```

Sizes are at rank 8 under the protocol `paper`: how many numbers train, and the memory of the optimizer's state after
the first step, with the projectors of GaLore, Fira, APOLLO and Flora. A dash means that the method does not serve the
model; `rosa-bench methods` says why. EVA's size is that of equal ranks: which layers get more depends on the data.
*Merges*: the trained model becomes plain layers of the same function. *Starts equal*: attaching the method leaves the
model's function unchanged.

The variants of LoRA have alpha = rank, whatever their papers chose; `method.alpha` or `method.config.lora_alpha`
changes it. How a method here differs from its paper is said in its module in `rosa_bench/methods`.

"""


def main() -> None:
    """Write the page."""
    with composing() as composer:
        PAGE.write_text(page(sizes(composer)), encoding="utf-8")


def sizes(composer: Composer) -> dict[str, dict[str, Entry]]:
    """Return the entries of every model, by model and method."""
    return {model: {one.name: one for one in catalogue(composer, [f"model={model}"])} for model in MODELS}


def page(entries: Mapping[str, Mapping[str, Entry]]) -> str:
    """Return the text of the page."""
    titles = [f"{title}: {what}" for title in MODELS.values() for what in ("trained", "optimizer")]
    lines = [_row(["method", "trains", "paper", *titles, "merges", "starts equal"])]
    lines.append(_row(["---", "---", "---", *["---:"] * len(titles), "---", "---"]))
    for name in names_in("method"):
        ours = [of_model[name] for of_model in entries.values()]
        cells = [cell for one in ours for cell in _size(one)]
        lines.append(_row([*beginning(name), *cells, *flags(ours)]))
    return HEAD + "\n".join(lines) + "\n"


def beginning(name: str) -> list[str]:
    """Return the cells of a method's row that its yaml alone decides."""
    known = Entry(**about(name))
    title = f"[{known.paper}]({known.link})" if known.link else known.paper  # not every paper is on arXiv
    paper = f"{title} ({known.year})" if title else ""
    return [f"`{name}`", known.trains, paper]


def _size(one: Entry) -> tuple[str, str]:
    if one.size is None:
        return ("-", "-") if one.refusal else ("n/a", "n/a")
    return count(one.size.trainable), memory(one.size.optimizer_elements)


def flags(entries: Iterable[Entry]) -> list[str]:
    """Return whether a method merges, and whether it starts equal, from its entries on several models."""
    served = next((one for one in entries if one.mergeable is not None and not one.refusal), Entry(name=""))
    return ["yes" if flag else "no" for flag in (served.mergeable, served.keeps_function)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    start(main, __doc__)
