"""What the command line, scripts and tests call: compose a run, run it, load records."""
