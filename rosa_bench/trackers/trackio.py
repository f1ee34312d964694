"""Report runs to trackio."""

import os
from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class Trackio(Logger):
    """trackio, with a database in ``folder`` unless TRACKIO_DIR or TRACKIO_SPACE_ID names another place."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        os.environ.setdefault("TRACKIO_DIR", str(self.path))  # trackio reads it on import
        from accelerate.tracking import TrackioTracker

        resume = "never" if key is None else "allow"
        tracker = TrackioTracker(self.project, name=key or run, config=settings, resume=resume)
        tracker.start()
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.run.name
