"""The length of a run that nobody has given."""

from rosa_bench.methods.base import RunLength
from rosa_bench.system.errors import UserError


class _Unknown(RunLength):
    """Raises `UserError`, which says how to give it, when a method asks for the length."""

    @property
    def total_steps(self) -> int:
        raise UserError(
            "this method needs the length of the run; set attached.length = RunLength(steps_per_epoch, epochs), or "
            "give its period in steps: resample_unit='steps'"
        )

    steps_per_epoch = epochs = total_steps  # pyrefly: ignore[bad-override]


UNKNOWN = _Unknown(0, 0)
