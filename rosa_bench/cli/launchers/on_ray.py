"""A Ray cluster for the time of a sweep, started by Hydra as a callback that conf/launch/ray.yaml names.

Hydra's launcher would start one too, with Ray's defaults: signals to stop abort the program, lines of one job that
resemble those of another are left out, and the last lines of jobs are printed after the sweep's table.
"""

import logging
import os
import signal
import sys
import time
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rosa_bench.system.signals.stopping import SIGNALS

log = logging.getLogger(__name__)

PRINTING_S = 1.0  # from when a job has written a line to when Ray prints it; Ray waits half of that when Python ends
OWN = "local"  # the address of a cluster that is started for the sweep and ends with it


class Cluster(Callback):
    """Starts or joins a cluster before a sweep, and leaves it afterwards."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        settings: Any = OmegaConf.to_container(config.hydra.launcher.ray.init, resolve=True)
        settle_environment(own=settings["address"] == OWN)
        import ray  # pyrefly: ignore[missing-import]

        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        ray.init(**settings)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        found = ray.cluster_resources()
        log.info("Ray has %g CPUs and %g GPUs", found.get("CPU", 0), found.get("GPU", 0))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:  # noqa: ARG002 - a hook point
        import ray  # pyrefly: ignore[missing-import]

        time.sleep(PRINTING_S)
        ray.shutdown()


def settle_environment(*, own: bool) -> None:
    """Let Ray print every line of every job, without colour into a file, unless the user's environment says otherwise.

    Connections to an ``own`` cluster need the token in ~/.ray, which is Ray's default, with a warning.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if not sys.stdout.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    if own:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
