"""Run a worker script in two processes on this machine, without GPUs."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from torch.distributed import TCPStore
from warm import WarmProcess

GLOO_ABORT = "terminate called without an active exception"
tried_again: list[str] = []  # scripts that were aborted; conftest.py moves them into pytest's summary


def launch(script: str | Path, *arguments: str, timeout: float = 600) -> str:
    """Run a script (of this folder, if it is only a name) as torchrun runs it, and return what its processes wrote.

    They import the package that lies beside the tests. torchrun itself is used in tests/recipes/test_accelerate_configs.py.
    """
    path = Path(__file__).parent / script
    statuses, said = _launched(path, arguments, timeout)
    # On a busy machine, a run is now and then aborted while its threads end (pytorch#179291). No other failure is tried again.
    if any(statuses) and GLOO_ABORT in said:
        tried_again.append(str(script))
        statuses, said = _launched(path, arguments, timeout)
    assert not any(statuses), f"{script} ended with {statuses}\n{said[-6000:]}"
    return said


def _launched(script: Path, arguments: tuple[str, ...], timeout: float) -> tuple[list[int], str]:
    """The exit status of each process, and what both wrote. When one fails, the other is killed."""
    # As in torchrun, the processes meet at a store that their parent has: nobody else can take its port before they do.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    with tempfile.TemporaryFile() as said:
        processes = []
        for rank in ("0", "1"):
            ranked = {**environment, "RANK": rank, "LOCAL_RANK": rank}
            processes.append(WarmProcess(script, *arguments, env=ranked, stdout=said, stderr=said))
        end = time.monotonic() + timeout
        while any(process.poll() is None for process in processes):
            late = time.monotonic() > end
            for process in processes:
                if late or any(other.poll() for other in processes):
                    process.kill()
            time.sleep(0.02)
        said.seek(0)
        return [process.wait() for process in processes], said.read().decode(errors="replace")
