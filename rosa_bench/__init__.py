"""rosa_bench: parameter-efficient fine-tuning methods, compared by one loop, from the command line."""

__version__ = "0.1.0"
