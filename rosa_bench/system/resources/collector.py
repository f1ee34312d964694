"""Python's search for garbage, and when to do without it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

FEW = 10_000  # objects; to search among them takes a millisecond


@contextmanager
def collector_paused() -> Iterator[None]:
    """Do not look for garbage in the block, because nearly all that it makes is kept: modules, records, settings.

    Each search would go through all of it again, which takes an eighth of the time that importing torch and
    transformers does, and a quarter of that of reading records. Also a decorator, for a command that ends soon.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_count()[0] > FEW and not gc.get_freeze_count():  # or this would undo somebody else's freeze
                gc.freeze()  # and back: into the oldest generation without a search, which would come at once
                gc.unfreeze()
            gc.enable()
