"""Before runs: the plan of a sweep, what fits, and the catalogue of methods."""
