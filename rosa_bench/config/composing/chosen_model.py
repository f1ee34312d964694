"""The overrides that choose a model again: by the name of its yaml, or by where it came from."""

from rosa_bench.config.groups import names_in

AUTO = "auto"  # conf/model/auto.yaml: the declaration is found from the model
PLACES = ("path", "hub", "revision")  # the settings that it is found from


def model_overrides(name: str, *, path: str | None, hub: str | None, revision: str | None) -> dict[str, str]:
    """Return the overrides, by key, that choose the model of this name and place.

    A model without a yaml was declared by ``model=auto``; its name says what it is.
    """
    if name in names_in("model"):
        return {"model": name}
    given = zip(PLACES, (path, hub, revision), strict=True)
    return {"model": AUTO, **{f"model.{key}": value for key, value in given if value is not None}}
