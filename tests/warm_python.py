"""Start Python with large libraries imported: a server imports them once, and forks a process for each command.

    python warm_python.py serve LISTENER        until its standard input ends; the number of a socket that listens
    python warm_python.py PATH ARGUMENT...      like ``python ARGUMENT...``: -m MODULE, -c CODE or a file, and the rest

The command has the folder, environment and streams of the process that asks for it, which passes signals on, and ends
as the command does. What Python reads when it starts, such as PYTHONHASHSEED, is the server's.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

# Not Hugging Face's libraries, because they read variables that tests set.
PRELOADED = ("torch._dynamo", "torch.distributed.tensor", "sklearn.metrics", "pandas", "pyarrow.parquet", "omegaconf")
PASSED_ON = (signal.SIGINT, signal.SIGTERM)


def ask(path: str, arguments: list[str]) -> None:
    """Have the server run a command, and end as it does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is a process to pass them on to
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"+"], [0, 1, 2])
        server.sendall(json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode())
        server.shutdown(socket.SHUT_WR)
        with server.makefile() as answers:
            process = int(answers.readline())
            for number in PASSED_ON:
                signal.signal(number, lambda number, _frame: os.kill(process, number))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
            status = int(answers.readline())
    if status >= 0:
        sys.exit(status)
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


def serve(listener: socket.socket) -> list[str]:
    """Fork a process for each request. Returns in processes of commands only, with their arguments."""
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.enable()
    gc.freeze()  # a collection would copy the memory that processes share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that supervise end by themselves
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        asker, _ = listener.accept()
        with asker:
            if os.fork() == 0:
                listener.close()
                return supervise(asker)
    os._exit(0)


def supervise(asker: socket.socket) -> list[str]:
    """Fork the command, and say how it ended; kill it if the process that asked is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(asker, 1, 3)
    with asker.makefile() as request:
        arguments, folder, environment = json.load(request)
    if (process := os.fork()) > 0:
        asker.sendall(f"{process}\n".encode())
        end, either = os.pidfd_open(process), select.poll()
        either.register(end, select.POLLIN)
        either.register(asker, select.POLLHUP)
        if end not in dict(either.poll()):
            os.kill(process, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            asker.sendall(f"{status}\n".encode())
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return arguments


def run(start: str, *rest: str) -> None:
    """Run a module, code or a file as Python does."""
    sys.argv = [*rest] if start == "-m" else [start, *rest[start == "-c" :]]
    sys.path.insert(0, "" if start.startswith("-") else str(Path(start).absolute().parent))
    if start == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif start == "-c":
        exec(rest[0], {"__name__": "__main__"})
    else:
        runpy.run_path(start, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        run(*serve(socket.socket(fileno=int(sys.argv[2]))))
    else:
        ask(sys.argv[1], sys.argv[2:])
