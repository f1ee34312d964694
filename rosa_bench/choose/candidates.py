"""The arms of a choice: every method with its ranks and learning rates, the most promising first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from rosa_bench.choose.plan import Arm
from rosa_bench.config.composing.compose import Composer
from rosa_bench.config.composing.parse import parse
from rosa_bench.config.groups import names_in
from rosa_bench.config.overrides.mistakes import composition_errors
from rosa_bench.config.schema import RunConfig
from rosa_bench.system.errors import UserError, one_of

TIME = "the time is too short"


class Untried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that is not tried, and why."""

    what: str
    why: str


class Candidates(NamedTuple):
    """Arms with their settings, and what cannot be tried."""

    configs: dict[Arm, RunConfig]
    untried: list[Untried]


def candidates(
    overrides: Sequence[str],
    composer: Composer,
    *,
    methods: Sequence[str],
    ranks: Sequence[int],
    lr_half_decades: Sequence[int],
    reference: str,
) -> Candidates:
    """Return the arms: all methods at their own learning rate and the first rank come first, then the others.

    A method without a rank appears once for each learning rate. Raises `UserError` for an unknown method or reference,
    or if no method can be composed with these overrides.
    """
    for method in methods:
        one_of("methods", method, names_in("method"))
    one_of("reference", reference, names_in("method"))
    configs: dict[Arm, RunConfig] = {}
    refused: dict[str, UserError] = {}
    for shift, rank, method in _in_order(lr_half_decades, ranks, methods):
        try:
            with composition_errors():
                own = (f"method={method}", f"rank={rank}", f"lr_half_decades={shift}")
                config = parse(composer.compose((*overrides, *own)))
        except UserError as error:
            refused.setdefault(method, error)
            continue
        if not config.method.trains:
            refused.setdefault(method, UserError(f"method={method} trains nothing, so it has no learning rate"))
            continue
        arm = Arm(method, config.lr, getattr(config.method, "rank", None))
        configs.setdefault(arm, config)
    if not configs:
        raise next(iter(refused.values()))
    return Candidates(configs, [Untried(method, str(error)) for method, error in refused.items()])


def _in_order(
    lr_half_decades: Sequence[int], ranks: Sequence[int], methods: Sequence[str]
) -> Iterator[tuple[int, int, str]]:
    """Yield combinations: first by the distance from the default learning rate, then by rank, then by method."""
    for shift in lr_half_decades:
        for rank in ranks:
            for method in methods:
                yield shift, rank, method
