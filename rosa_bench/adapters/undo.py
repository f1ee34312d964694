"""Undo what attaching a method has changed in a model, so that an error leaves nothing half attached."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Held = dict[Any, Any] | set[Any]
MISSING = object()


class Structure:
    """What a model's modules and configurations hold now: layers, parameters, hooks and settings, but not their values.

    It is restored in place, because handles of hooks refer to the dictionaries themselves.
    """

    def __init__(self, model: nn.Module):
        modules = list(model.modules())
        configs = {id(it): it for module in modules if hasattr(it := getattr(module, "config", None), "__dict__")}
        self.kinds: list[tuple[Any, type]] = [(owner, type(owner)) for owner in (*modules, *configs.values())]
        self.held: list[Held] = []
        for owner, _ in self.kinds:
            own = vars(owner)
            self.held += [own, *(value for value in own.values() if isinstance(value, dict | set))]
        self.earlier = self.copies()

    def copies(self) -> list[Held]:
        """Return copies of what the same dictionaries and sets hold by now."""
        return [held.copy() for held in self.held]

    def undo(self, later: list[Held] | None = None) -> None:
        """Undo what has changed until the copies ``later`` were made; by default until now."""
        for owner, kind in self.kinds:
            if type(owner) is not kind:  # parametrised since
                owner.__class__ = kind
        for held, earlier, changed in zip(self.held, self.earlier, later or self.copies(), strict=True):
            if isinstance(held, set):
                held.difference_update(set(changed) - earlier)  # pyrefly: ignore[unsupported-operation]
                held.update(earlier - set(changed))  # pyrefly: ignore[unsupported-operation]
            else:
                _undo(held, earlier, changed)  # pyrefly: ignore[bad-argument-type]


def _undo(held: dict[Any, Any], earlier: dict[Any, Any], changed: dict[Any, Any]) -> None:
    """Give entries that differ between ``earlier`` and ``changed`` their earlier values, and keep the earlier order."""
    now = dict(held)
    held.clear()
    for key, value in earlier.items():
        if changed.get(key, MISSING) is not value:
            held[key] = value
        elif key in now:
            held[key] = now[key]
    held.update({key: value for key, value in now.items() if key not in earlier and key not in changed})


@contextmanager
def undone_on_error(model: nn.Module) -> Iterator[None]:
    """Put the model's modules back as they were if the block fails: layers, hooks, what trains, and configuration.

    The values of weights are not kept, because attaching a method writes into none of them.
    """
    structure = Structure(model)
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    place = next((parameter.device for parameter, _ in trained), None)
    try:
        yield
    except BaseException:
        structure.undo()
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        if place is not None:
            model.to(place)
        raise
