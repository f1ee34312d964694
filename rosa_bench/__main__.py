"""``python -m rosa_bench`` is the program ``rosa-bench``."""

from rosa_bench.cli.main import main

if __name__ == "__main__":
    main()
