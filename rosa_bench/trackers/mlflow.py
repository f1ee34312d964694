"""Report runs to MLflow."""

import os
from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class MLflow(Logger):
    """MLflow, on the server that MLFLOW_TRACKING_URI names, or else a database in ``folder``."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        import mlflow  # pyrefly: ignore[missing-import]
        from accelerate.tracking import MLflowTracker

        artifacts = None
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{self.path / 'mlflow.db'}")
            artifacts = (self.path / "artifacts").as_uri()
        tracker = MLflowTracker(self.project, artifacts, run_id=key, run_name=run)
        tracker.start()
        if key is None:
            tracker.store_init_configuration(settings)
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.active_run.info.run_id

    def end(self, tracker: Any, status: str, step: int) -> None:  # noqa: ARG002 - part of the contract
        import mlflow  # pyrefly: ignore[missing-import]

        mlflow.end_run({"completed": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED"))
