"""Figures, one file each."""

from rosa_bench.report.figures.environment import import_matplotlib

import_matplotlib()  # before the files of this folder do
