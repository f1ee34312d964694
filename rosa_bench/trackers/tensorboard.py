"""Runs shown in the tools that people already use: TensorBoard, Weights & Biases, MLflow, trackio.

accelerate's trackers talk to the tools. Here is what they leave open: where a run is written, how one that broke off is
gone on with, and how it ended. A record has all the figures that a tool is sent, so a tool that fails costs no run.
"""

from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Logger):
    """A folder for each run, called as it is; one that starts anew has a number behind its name."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        from accelerate.tracking import TensorBoardTracker
        from torch.utils.tensorboard.summary import hparams

        numbered = (f"{run}-{number}" if number > 1 else run for number in range(1, 10**6))
        free = next(name for name in numbered if not (self.place / name).exists())
        tracker: Any = TensorBoardTracker(key or free, self.place)
        tracker.start()
        if key is None:
            # Not by the tracker, which would put them into a folder below, to TensorBoard another run. Without the
            # first part, which would name the metrics, TensorBoard takes every curve for one.
            _, *session = hparams({name: value for name, value in settings.items() if value is not None}, {})
            for summary in session:
                tracker.writer.file_writer.add_summary(summary)
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.run_name
