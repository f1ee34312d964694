"""Launchers that make the jobs of a sweep in worker processes on this machine, which end with the sweep."""

from contextlib import AbstractContextManager, nullcontext

from rosa_bench.system.signals.workers import ending_with_parent

# Hydra's launchers, by the class that their settings name: whether a process of the launcher's own is between the
# sweep and its workers. Jobs of any other launcher are made by the sweep itself, or elsewhere, as by Slurm.
BETWEEN = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": False,
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher": True,
}


def in_worker(launcher: str) -> AbstractContextManager[None]:
    """Return what one job of a sweep is made in: in a worker of this launcher, the job ends when the sweep does.

    ``launcher`` is the class of Hydra's launcher, with its module.
    """
    return ending_with_parent(between=BETWEEN[launcher]) if launcher in BETWEEN else nullcontext()
