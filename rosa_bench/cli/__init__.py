"""The command line, one command per file.

A file here is a command if its docstring has a line ``Usage: rosa-bench NAME``, where NAME is the file's. The docstring
is the command's help. The file defines ``main(arguments)`` and, if the command has options, a dataclass ``Options``
whose fields are declared with `rosa_bench.system.setting.setting`.
"""
