"""Figures: the paper's, the headline and further studies, one file each."""

from rosa_bench.report.figures.environment import import_matplotlib

import_matplotlib()  # before the files of these folders do
