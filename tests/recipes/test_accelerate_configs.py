"""The accelerate configurations: each loads with accelerate's own loader; the CPU ones train as their header says."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import ComputeEnvironment, DistributedType

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "accelerate"

# file: what the launcher must be told
EXPECTED: dict[str, dict[str, Any]] = {
    "cpu": {"distributed_type": DistributedType.NO, "num_processes": 1, "use_cpu": True, "mixed_precision": "no"},
    "cpu_2proc": {
        "distributed_type": DistributedType.MULTI_GPU,
        "num_processes": 2,
        "use_cpu": True,
        "gpu_ids": "-1,-1",
        "main_process_port": 0,
        "mixed_precision": "no",
    },
    "gpu_bf16": {"distributed_type": DistributedType.NO, "num_processes": 1, "use_cpu": False},
    "multi_gpu_ddp": {"distributed_type": DistributedType.MULTI_GPU, "num_processes": 2, "use_cpu": False},
    "fsdp2": {"distributed_type": DistributedType.FSDP, "num_processes": 2, "use_cpu": False},
    "deepspeed_zero2": {"distributed_type": DistributedType.DEEPSPEED, "num_processes": 2, "use_cpu": False},
    "multi_node": {
        "distributed_type": DistributedType.MULTI_GPU,
        "num_machines": 2,
        "num_processes": 16,
        "use_cpu": False,
        "main_process_port": 29500,
    },
}
LAUNCHED = {"cpu": 1, "cpu_2proc": 2}


def load(name: str) -> ClusterConfig:
    return load_config_from_file(str(FOLDER / f"{name}.yaml"))


def header_command(name: str) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of the launch command in the second line of a configuration."""
    line = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[1]
    match = re.fullmatch(r"# Launch.*?: ((?:\w+=\w+ )*)accelerate launch (.*)", line)
    assert match, line
    return dict(pair.split("=") for pair in match[1].split()), match[2].split()


def test_every_file_is_covered_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.yaml" for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_config_loads_and_says_what_its_name_says(name: str) -> None:
    config = load(name)  # raises on an unknown key
    assert type(config) is ClusterConfig
    assert config.compute_environment is ComputeEnvironment.LOCAL_MACHINE
    expected = {"num_machines": 1, "machine_rank": 0, "debug": False, "mixed_precision": "bf16"} | EXPECTED[name]
    assert {key: getattr(config, key) for key in expected} == expected
    assert config.num_processes % config.num_machines == 0
    assert bool(config.fsdp_config) == (name == "fsdp2")
    assert bool(config.deepspeed_config) == (name == "deepspeed_zero2")


@pytest.mark.parametrize("name", ["fsdp2", "deepspeed_zero2"])
def test_nested_keys_are_options_of_the_launcher(name: str) -> None:
    """The loader does not look inside these tables, and the launcher ignores what it does not know."""
    options = {action.dest: action for action in launch_command_parser()._actions}
    config = load(name)
    for key, value in {**config.fsdp_config, **config.deepspeed_config}.items():
        assert key in options, key
        choices = options[key].choices
        assert choices is None or str(value) in map(str, choices), (key, value)


def test_fsdp2_is_version_2_and_its_plugin_accepts_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    for key, value in load("fsdp2").fsdp_config.items():  # as the launcher hands them to its processes
        monkeypatch.setenv(key.upper(), str(value).lower() if isinstance(value, bool) else str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"


def test_zero_stage_is_2() -> None:
    assert load("deepspeed_zero2").deepspeed_config["zero_stage"] == 2


@pytest.mark.parametrize("name", EXPECTED)
def test_the_header_gives_a_launch_command_and_the_truth_about_the_tests(name: str) -> None:
    purpose, _, tested = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[:3]
    assert re.match(r"# \w.*\.$", purpose)
    args = launch_command_parser().parse_args(header_command(name)[1])  # exits on an option that accelerate lacks
    assert args.config_file == f"recipes/accelerate/{name}.yaml"
    assert args.training_script == "recipes/addition.py"
    launched = "launched for real" if name in LAUNCHED else "not launched, only loaded and checked"
    assert tested == f"# Tests: {launched}."


# Each process starts from other weights and reads other rows; only DistributedDataParallel can make them agree.
SCRIPT = """
import gc, hashlib, json, os, sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments


def digest(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def train(folder):
    seen = []

    def collate(rows):
        seen.extend(row["input_ids"][0] for row in rows)
        tokens = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": tokens, "labels": tokens}

    args = TrainingArguments(
        output_dir=str(folder / "run"), max_steps=3, per_device_train_batch_size=2, logging_steps=1, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )
    torch.manual_seed(args.process_index)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    before = digest(model)
    rows = [{"input_ids": [i, *range(7)]} for i in range(24)]
    trainer = Trainer(model=model, args=args, train_dataset=rows, data_collator=collate)
    trainer.train()
    record = {
        "num_processes": trainer.accelerator.num_processes,
        "rank": args.process_index,
        "device": args.device.type,
        "backend": torch.distributed.get_backend() if torch.distributed.is_initialized() else None,
        "mixed_precision": trainer.accelerator.mixed_precision,
        "pid": os.getpid(),
        "steps": trainer.state.global_step,
        "rows": seen,
        "before": before,
        "after": digest(model),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    (folder / f"rank{args.process_index}.json").write_text(json.dumps(record))


train(Path(sys.argv[1]))
# A gloo thread that outlives the interpreter now and then aborts the process (pytorch/pytorch#179291). Destroying the
# group ends its threads, but only once no wrapped model refers to it any more: hence after the trainer is gone.
gc.collect()
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("name", LAUNCHED)
def test_cpu_configs_train_for_real(name: str, tmp_path: Path) -> None:
    num_processes = LAUNCHED[name]
    script = tmp_path / "tiny.py"
    script.write_text(SCRIPT, encoding="utf-8")
    inherited = ("ACCELERATE_", "FSDP_", "MASTER_", "TORCHELASTIC_")
    single = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
    env = {key: value for key, value in os.environ.items() if not key.startswith(inherited) and key not in single}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf_home")}
    more_env, args = header_command(name)
    assert args.pop() == "recipes/addition.py"
    command = [sys.executable, "-m", "accelerate.commands.launch", *args]
    done = subprocess.run(
        [*command, str(script), str(tmp_path)],
        env=env | more_env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "had defaults used instead" not in done.stderr, "the configuration leaves nothing to be guessed"

    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank*.json"))]
    assert [record["rank"] for record in records] == list(range(num_processes))
    assert len({record["pid"] for record in records}) == num_processes
    rows = [row for record in records for row in record["rows"]]
    assert len(set(rows)) == len(rows), "no row was read twice"
    for record in records:
        assert record["num_processes"] == num_processes
        assert record["device"] == "cpu"
        assert record["backend"] == (None if num_processes == 1 else "gloo")
        assert record["mixed_precision"] == "no"
        assert record["steps"] == 3
        assert len(record["rows"]) >= 3 * 2, "took part in every step"
        assert record["after"] != record["before"]
    assert len({record["before"] for record in records}) == num_processes
    assert len({record["after"] for record in records}) == 1, "the processes end with the same weights"
    losses = records[0]["losses"]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
