"""One run, a list of runs, and the outcome of a sweep, as they are shown in a terminal."""
