"""Undo what an attempt has changed in a model, so that an error leaves nothing half attached."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def undone_on_error(model: nn.Module) -> Iterator[None]:
    """Put the model's modules back as they were if the block fails: layers, hooks, what trains, and configuration.

    The values of weights are not kept, because attaching a method writes into none of them.
    """
    config = getattr(model, "config", None)
    owners: list[Any] = [*model.modules(), *([config] if hasattr(config, "__dict__") else [])]
    before = [(vars(owner), _copied(vars(owner))) for owner in owners]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    place = next((parameter.device for parameter, _ in trained), None)
    try:
        yield
    except BaseException:
        for now, earlier in before:
            _restore(now, earlier)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        if place is not None:
            model.to(place)
        raise


def _copied(state: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return each attribute with a copy of it if it is a dictionary, as hooks and submodules are held in."""
    return {name: (value, dict(value) if isinstance(value, dict) else None) for name, value in state.items()}


def _restore(now: dict[str, Any], earlier: dict[str, tuple[Any, Any]]) -> None:
    """Restore attributes in place, because handles of hooks refer to the dictionaries themselves."""
    now.clear()
    for name, (value, content) in earlier.items():
        now[name] = value
        if content is not None:
            value.clear()
            value.update(content)
