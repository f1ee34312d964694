"""Report runs to TensorBoard."""

from dataclasses import dataclass
from typing import Any

from rosa_bench.trackers.base import Logger, Settings


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Logger):
    """TensorBoard, with one folder per run. A run that is started again gets a numbered folder."""

    def start(self, run: str, settings: Settings, key: str | None) -> Any:
        from accelerate.tracking import TensorBoardTracker
        from torch.utils.tensorboard.summary import hparams

        numbered = (f"{run}-{number}" if number > 1 else run for number in range(1, 10**6))
        free = next(name for name in numbered if not (self.path / name).exists())
        tracker: Any = TensorBoardTracker(key or free, self.path)
        tracker.start()
        if key is None:
            # The tracker itself would write the settings to a subfolder, which TensorBoard shows as another run. The
            # first part would list the metrics; without it TensorBoard treats every curve as a metric.
            _, *session = hparams({name: value for name, value in settings.items() if value is not None}, {})
            for summary in session:
                tracker.writer.file_writer.add_summary(summary)
        return tracker

    def key(self, tracker: Any) -> str:
        return tracker.run_name
