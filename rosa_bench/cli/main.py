"""The program ``rosa-bench``: find the command that the arguments name, and call it.

Heavy libraries are imported by the commands that need them, so that help and errors are quick.
"""

import sys
from collections.abc import Sequence

from rosa_bench.cli.command import DEFAULT, commands, load
from rosa_bench.cli.messages import errors_reported, output_arrived
from rosa_bench.cli.options import MULTIRUN, own_config_dir
from rosa_bench.cli.surroundings import settle
from rosa_bench.config.files.folder import config_dir
from rosa_bench.system import processes
from rosa_bench.system.console import output_never_fails
from rosa_bench.system.errors import UserError
from rosa_bench.system.signals.stopping import stop_signals_raise

HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line ``arguments``; by default the program's own.

    Exits with status 0 if all went well, 1 if not, 130 after Ctrl-C and 143 after SIGTERM or SIGHUP.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    settle()
    with output_never_fails(), errors_reported(), stop_signals_raise():
        processes.quieten()
        folder, given = own_config_dir(given)
        with config_dir(folder):
            dispatch(given)


def dispatch(arguments: list[str]) -> None:
    """Call the command that the arguments name; without one they are settings of a run. Without any, show the help."""
    match arguments:
        case [] | ["help"] | ["help", "-h" | "--help"]:
            show_help()
        case _ if "--version" in arguments:
            from rosa_bench.cli.help import version_text

            print(version_text())
            output_arrived()
        case ["help", name]:
            show_help(name)
        case ["help", _, extra, *_]:
            raise UserError(f"{extra} is one too many; usage: rosa-bench help COMMAND")
        case [name, *rest] if name in commands():
            call(name, rest)
        case [flag, name, *rest] if flag in MULTIRUN and name in commands():
            call(name, [flag, *rest])
        case [name, *_] if name[:1].isalpha() and "=" not in name:
            load(name)  # raises: it names the nearest command
        case _:
            call(DEFAULT, arguments, program=arguments[0] in HELP)


def call(name: str, arguments: list[str], *, program: bool = False) -> None:
    """Call a command, or show its help, or that of the whole ``program``, if the arguments ask for it."""
    if any(argument in HELP for argument in arguments):
        show_help(None if program else name)
        return
    if processes.launched() > 1 and name != DEFAULT:
        raise UserError(f"rosa-bench {name} is not for several processes; start it by itself")
    load(name).main(arguments)
    if name != DEFAULT:  # a run has its results on disk; what other commands print is their result
        output_arrived()


def show_help(command: str | None = None) -> None:
    """Print the help of a command, or of the program."""
    from rosa_bench.cli.help import command_help, program_help

    print(program_help() if command is None else command_help(command))
    output_arrived()


if __name__ == "__main__":
    main()
