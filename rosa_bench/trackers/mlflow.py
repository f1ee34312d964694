"""Runs shown in the tools that people already use: TensorBoard, Weights & Biases, MLflow, trackio.

accelerate's trackers talk to the tools. Here is what they leave open: where a run is written, how one that broke off is
gone on with, and how it ended. A record has all the figures that a tool is sent, so a tool that fails costs no run.
"""

import os
from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class MLflow(Logger):
    """The server that MLFLOW_TRACKING_URI names, or a data base in ``folder``."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        import mlflow  # pyright: ignore[reportMissingImports]
        from accelerate.tracking import MLflowTracker

        artifacts = None
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{self.place / 'mlflow.db'}")  # pyright: ignore[reportAttributeAccessIssue]
            artifacts = (self.place / "artifacts").as_uri()
        tracker = MLflowTracker(self.project, artifacts, run_id=key, run_name=run)
        tracker.start()
        if key is None:
            tracker.store_init_configuration(settings)
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.active_run.info.run_id

    def end(self, tracker: Any, status: str, step: int) -> None:  # noqa: ARG002 - part of the contract
        import mlflow  # pyright: ignore[reportMissingImports]

        mlflow.end_run({"completed": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED"))  # pyright: ignore[reportAttributeAccessIssue]
