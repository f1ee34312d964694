"""Report runs to Weights & Biases."""

from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class WandB(Logger):
    """Weights & Biases: its server, or with WANDB_MODE=offline, files for ``wandb sync``."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        from accelerate.tracking import WandBTracker

        continued = {} if key is None else {"id": key, "resume": "allow"}
        tracker = WandBTracker(self.project, name=run, dir=self.path, config=settings, **continued)
        tracker.start()
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.run.id

    def end(self, tracker: Any, status: str, step: int) -> None:  # noqa: ARG002 - part of the contract
        tracker.run.summary["status"] = status
        tracker.run.finish(exit_code=0 if status == "completed" else 1)
