"""Python processes that start with torch and transformers imported.

Importing the two costs a process some five seconds of a core, which is most of what a test of a script costs. Here a server
imports them once, and each process of a test is forked from it: `run_python("recipes/modular.py", "--p", "13")` gives what
`subprocess.run([sys.executable, ...])` gives. Everything else is as in any new process: arguments, folder, environment,
output, exit status, and hf_radial is not imported yet.

Libraries read some environment variables when they are imported. There is a server for each set of values of all variables
but those in `LATE`, which are read later. For a process whose HF_... variables are its own there is a server that has imported
torch and all else that transformers needs, but nothing of Hugging Face's. The two servers that were used last are kept.

Not for tests of what is imported, of memory, or of the interpreter's own options.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

TORCH = "import pandas, psutil, pyarrow.dataset, pyarrow.json, pyarrow.parquet, regex, scipy.optimize, scipy.stats, sympy\n"
TORCH += "import torch._dynamo, torch.distributed.checkpoint, torch.distributed.fsdp, torch.distributed.tensor\n"
TORCH += "import fsspec.implementations.local, httpx, jinja2, requests, tokenizers, yaml"
TRANSFORMERS = "import matplotlib.backends.backend_agg, matplotlib.figure, torch, datasets, transformers\n"
TRANSFORMERS += "from transformers import Trainer, AutoModelForCausalLM, AutoTokenizer"
IMPORTED = {"torch": TORCH, "transformers": TRANSFORMERS}
SERVERS = 2
CALL = b"run"
LATE = ("PYTHONPATH", "PYTHONUNBUFFERED", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "PWD", "OLDPWD")
LATE += ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LATE_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PYTEST_", "RAY_")
# Libraries set these when a test imports them or compiles. A file that kept its environment before then needs no other server.
LATE_PREFIXES += ("KMP_", "TORCHINDUCTOR_", "TRITON_")
seconds_of_ended = 0.0  # CPU time of all processes that were run here and have ended
HUGGING_FACE = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "NO_PROXY", "no_proxy")
OURS = "HF_RADIAL_"  # read by what is not imported yet


def run_python(
    *arguments: str | Path,
    env: dict[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 600,
    check: bool = False,
    merge: bool = False,
    python: str | Path = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments (a script, `-c code` or `-m module`, then its words) until it ends.

    Args:
        env: the whole environment; by default this process's.
        cwd: the folder it starts in; by default this process's.
        timeout: seconds, after which it is killed and `subprocess.TimeoutExpired` raised.
        check: the exit status must be 0.
        merge: what is written to stderr comes in `stdout`, in the order in which it was written.
        python: the interpreter, of this environment by default. Another one needs a server of its own.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = WarmProcess(*arguments, env=env, cwd=cwd, stdout=out, stderr=out if merge else err, python=python)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    assert not (check and status), f"{process.args} ended with {status}\n{texts[0][-2000:]}\n{texts[1][-6000:]}"
    return subprocess.CompletedProcess(process.args, status, *texts)


class WarmSubprocess:
    """In the place of the module `subprocess`, for tests of what starts Python with `subprocess.run`."""

    DEVNULL, STDOUT = None, subprocess.STDOUT

    @staticmethod
    def run(
        command: Sequence[str],
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | int | None = None,
        env: dict[str, str] | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        assert command[0] == sys.executable
        errors = stdout if stderr == subprocess.STDOUT else stderr
        assert not isinstance(errors, int)
        status = WarmProcess(*command[1:], env=env, stdout=stdout, stderr=errors).wait()
        if check and status:
            raise subprocess.CalledProcessError(status, command)
        return subprocess.CompletedProcess(command, status)


class WarmProcess:
    """As `subprocess.Popen`, of which it has `pid`, `args`, `returncode`, `poll`, `wait`, `kill` and `send_signal`."""

    def __init__(
        self,
        *arguments: str | Path,
        env: dict[str, str] | None = None,
        cwd: str | Path | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        python: str | Path = sys.executable,
    ) -> None:
        env = dict(os.environ if env is None else env)
        self.args = [str(python), *map(str, arguments)]
        self.returncode: int | None = None
        self._socket, theirs = socket.socketpair()
        with theirs, open(os.devnull, "r+b") as null:
            files = [null if file is None else file for file in (stdout, stderr)]
            request = {"argv": self.args[1:], "env": env, "cwd": str(cwd or os.getcwd())}
            self._server = _server(env, self.args[0])
            self._server.send(request, [theirs.fileno(), null.fileno(), *(file.fileno() for file in files)])
        self._replies = self._socket.makefile("r")
        pid = self._replies.readline()
        assert pid, "the process from which others start has ended; its error is above"
        self.pid = int(pid)

    def wait(self, timeout: float | None = None) -> int:
        global seconds_of_ended
        if self.returncode is None:
            if timeout is not None and not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            status, seconds = self._replies.readline().split()
            self.returncode = int(status)
            seconds_of_ended += float(seconds)
            self._server.seconds_of_ended += float(seconds)
            self._replies.close()
            self._socket.close()
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# The server, seen from the tests --------------------------------------------------------------------------------------


def kill_at_a_checkpoint(process: WarmProcess, folder: Path) -> None:
    """Kill a process by SIGKILL, as soon as the run in a folder has a checkpoint that was written to its end."""
    from hf_radial.runs.resume import last_complete_checkpoint

    end = time.monotonic() + 600
    while last_complete_checkpoint(folder) is None and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


class _Server:
    def __init__(self, python: str, env: dict[str, str], imported: str) -> None:
        self.seconds_of_ended = 0.0
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [python, __file__, str(theirs.fileno()), imported]
            self._process = subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def send(self, request: dict[str, Any], files: list[int]) -> None:
        with tempfile.TemporaryFile("w+") as text:  # an environment can be longer than a packet
            json.dump(request, text)
            text.flush()
            socket.send_fds(self._socket, [CALL], [text.fileno(), *files])

    def close(self) -> None:
        """End. From now on the CPU time of its processes is counted by the system, as that of this process's children."""
        global seconds_of_ended
        self._socket.close()
        self._process.wait()
        seconds_of_ended -= self.seconds_of_ended


_servers: dict[tuple[str, str, frozenset[tuple[str, str]]], _Server] = {}
_choosing = threading.Lock()


def _server(env: dict[str, str], python: str) -> _Server:
    env = {name: value for name, value in env.items() if not name.startswith(OURS)}
    ours, theirs = (
        {k: v for k, v in each.items() if k.startswith(HUGGING_FACE) and not k.startswith(OURS)} for each in (os.environ, env)
    )
    imported, late = ("transformers", LATE_PREFIXES) if ours == theirs else ("torch", (*LATE_PREFIXES, *HUGGING_FACE))
    early = {name: value for name, value in env.items() if name not in LATE and not name.startswith(late)}
    key = python, imported, frozenset(early.items())
    with _choosing:
        server = _servers.pop(key, None) or _Server(python, early, imported)
        while len(_servers) >= SERVERS:
            _servers.pop(next(iter(_servers))).close()
        _servers[key] = server
    return server


@atexit.register
def _close_servers() -> None:
    while _servers:
        _servers.popitem()[1].close()


# The server itself ----------------------------------------------------------------------------------------------------


def _serve(connection: socket.socket) -> list[str]:
    """Answer requests for ever; returns in each process that was asked for, with its arguments."""
    gc.collect()
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(connection, len(CALL), 8)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            connection.close()
            if (argv := _watch(*files)) is not None:
                return argv
            os._exit(0)
        for file in files:
            os.close(file)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def _watch(text: int, reply: int, *standard: int) -> list[str] | None:
    """Fork once more: the process that was asked for gets its arguments, and the other tells of its end."""
    with os.fdopen(text) as file:
        file.seek(0)
        request = json.load(file)
    pid = os.fork()
    if pid:
        for descriptor in standard:
            os.close(descriptor)
        os.write(reply, f"{pid}\n".encode())
        _, status, used = os.wait4(pid, 0)
        os.write(reply, f"{os.waitstatus_to_exitcode(status)} {used.ru_utime + used.ru_stime}\n".encode())
        return None
    os.close(reply)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(write_through=True)
    return request["argv"]


def _run(argv: list[str]) -> None:
    """What `python argv` does, in this process."""
    kind = argv[0]
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:0] = places
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *argv[2:]]
        code = compile(argv[1], "<string>", "exec")
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        sys.argv = argv
        main.__file__ = kind
        code = compile(Path(kind).read_bytes(), kind, "exec")
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def _end(argv: list[str]) -> NoReturn:
    """Run, and end as an interpreter does, but do not take torch to pieces: that costs a second."""
    status: int | str | None = 0
    try:
        _run(argv)
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else 1 if status else 0)


if __name__ == "__main__":
    exec(IMPORTED[sys.argv[2]])
    del sys.path[0]  # this folder
    _end(_serve(socket.socket(fileno=int(sys.argv[1]))))
