"""A study's runs as processes: each one a recipe with its own options, folder and console log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CONSOLE_FILE = "console.log"


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line.

    >>> as_flags({"seed": 0, "output_dir": "runs/x"})
    ['--seed', '0', '--output_dir', 'runs/x']
    """
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def run_processes(commands: Mapping[Path, Sequence[str]], jobs: int) -> list[Path]:
    """Run one command for each folder, with one thread each, in the order given; returns the folders whose command failed.

    Args:
        commands: folder -> command. What the command prints is appended to `console.log` in its folder.
        jobs: how many run at a time.
    """

    def run(folder: Path) -> bool:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / CONSOLE_FILE).open("a") as console:
            code = subprocess.run(
                commands[folder],
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            ).returncode
        print(f"{'done' if code == 0 else f'FAILED ({code}), see {CONSOLE_FILE}'}: {folder}", flush=True)
        return code == 0

    with ThreadPoolExecutor(jobs) as pool:
        return [folder for folder, fine in zip(commands, pool.map(run, commands), strict=True) if not fine]
