"""Runs shown in the tools that people already use: TensorBoard, Weights & Biases, MLflow, trackio.

accelerate's trackers talk to the tools. Here is what they leave open: where a run is written, how one that broke off is
gone on with, and how it ended. A record has all the figures that a tool is sent, so a tool that fails costs no run.
"""

import os
from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class Trackio(Logger):
    """trackio: a data base in ``folder``, or wherever TRACKIO_DIR or TRACKIO_SPACE_ID say."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        os.environ.setdefault("TRACKIO_DIR", str(self.place))  # read when trackio is imported
        from accelerate.tracking import TrackioTracker

        resume = "never" if key is None else "allow"
        tracker = TrackioTracker(self.project, name=key or run, config=settings, resume=resume)
        tracker.start()
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.run.name
