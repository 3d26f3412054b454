"""`hf-radial run RECIPE [OPTIONS]`: a recipe under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from hf_radial.runs.shipped import RECIPES, recipes_folder, shipped_file

ONE_PROCESS = ("compare", "sweep")  # they start their own, or share their steps in one


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    run_parser = commands.add_parser(
        "run",
        help="train: a recipe under accelerate launch",
        description="Run a recipe under `accelerate launch`. All options after its name are its own; RECIPE --help lists them.",
    )
    run_parser.set_defaults(run=run)
    run_parser.add_argument(
        "--config_file",
        metavar="FILE_OR_NAME",
        help="of accelerate: a file, or one of ours by name, such as cpu, cpu_2proc, gpu_bf16, multi_gpu_ddp, fsdp2. Default: "
        "that of `accelerate config`; without one, every GPU, or the CPU",
    )
    run_parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=", ".join(RECIPES))
    run_parser.add_argument("options", nargs=argparse.REMAINDER, metavar="OPTIONS", help="of the recipe")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    config, words = _without_config(options.options)
    command = [*_launch(options.recipe, config or options.config_file), str(recipes_folder() / f"{options.recipe}.py"), *words]
    try:
        launch_command(launch_command_parser().parse_args(command))
    except KeyboardInterrupt:  # the recipe, which has been interrupted too, says what there is to say
        return 130
    return 0


def _without_config(words: list[str]) -> tuple[str | None, list[str]]:
    """`--config_file FILE` may also come after the recipe's name."""
    config, rest = None, list(words)
    for i, word in enumerate(words):
        if word == "--config_file" and i + 1 < len(words):
            config, rest = words[i + 1], [*words[:i], *words[i + 2 :]]
        elif word.startswith("--config_file="):
            config, rest = word.partition("=")[2], [*words[:i], *words[i + 1 :]]
    return config, rest


def _launch(recipe: str, config: str | None) -> list[str]:
    """The options of `accelerate launch`."""
    import torch
    from accelerate.commands.config.config_args import default_config_file

    quiet = ["--quiet"]  # after an error of the recipe no traceback of the launcher
    if config is not None:
        return [*quiet, "--config_file", str(shipped_file("--config_file", config, recipes_folder() / "accelerate"))]
    if os.path.isfile(default_config_file):
        return quiet
    if not torch.accelerator.is_available():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS", cores)
        cpu = str(recipes_folder() / "accelerate" / "cpu.yaml")
        return [*quiet, "--config_file", cpu, "--num_cpu_threads_per_process", str(threads)]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*quiet, *plain, *(["--num_processes", "1"] if recipe in ONE_PROCESS else [])]
