"""Sources of the private functions of libraries that hf_radial replaces or copies, identified by a hash.

    python tests/support/internals.py --wheels FOLDER     records those of wheels, as `pip download --no-deps` fetches them

`internals.json` holds, for every function, hash -> versions of its library. A version that is not among them passes if the
function's source is one of those that were read. Comments, docstrings and empty lines do not count. Nothing is imported.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

RECORD = Path(__file__).with_name("internals.json")
FUNCTIONS = {
    "transformers": {
        "trainer.py": [
            "Trainer._run_epoch",
            "Trainer._inner_training_loop",
            "Trainer.training_step",
            "Trainer.get_batch_samples",
            "Trainer._get_num_items_in_batch",
            "Trainer._prepare_context_parallel_inputs",
            "Trainer._prepare_inputs",
            "Trainer._prepare_input",
            "Trainer._track_num_input_tokens",
            "Trainer._clip_grad_norm",
            "Trainer._get_grad_norm",
            "Trainer._get_learning_rate",
            "Trainer._maybe_log_save_evaluate",
            "Trainer.floating_point_ops",
            "Trainer.log",
            "Trainer._save_checkpoint",
            "Trainer._issue_warnings_after_load",
            "Trainer._push_from_checkpoint",
            "Trainer._get_collator_with_removed_columns",
            "Trainer._get_output_dir",
        ],
        "trainer_callback.py": ["CallbackHandler.call_event"],
    },
    "accelerate": {
        "accelerator.py": ["Accelerator.backward"],
        "optimizer.py": ["AcceleratedOptimizer.step", "AcceleratedOptimizer.zero_grad"],
        "scheduler.py": ["AcceleratedScheduler.step"],
        "state.py": ["GradientState._set_sync_gradients", "GradientState._remove_dataloader"],
        "data_loader.py": [
            "SeedableRandomSampler.__iter__",
            "DataLoaderShard.__init__",
            "DataLoaderShard.__iter__",
            "DataLoaderShard.set_epoch",
            "BatchSamplerShard.__iter__",
        ],
    },
}


def sources(read: Callable[[str], str], library: str) -> dict[str, str]:
    """The hash of each function of a library's `FUNCTIONS`, whose files `read` gives; "missing" where there is none."""
    found = {}
    for file, names in FUNCTIONS[library].items():
        text = read(file)
        tree = ast.parse(text)
        for name in names:
            found[f"{library}/{file}: {name}"] = _hash(text, _node(tree, name.split(".")))
    return found


def _node(tree: ast.AST, path: list[str]) -> ast.AST | None:
    for part in path:
        children = [node for node in ast.iter_child_nodes(tree) if getattr(node, "name", None) == part]
        if not children:
            return None
        tree = children[-1]
    return tree


def _hash(text: str, node: ast.AST | None) -> str:
    if node is None:
        return "missing"
    lines = {i: line.strip() for i, line in enumerate(text.splitlines(), 1) if node.lineno <= i <= node.end_lineno}
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        for i in range(first.lineno, first.end_lineno + 1):
            del lines[i]
    code = "\n".join(line for line in lines.values() if line and not line.startswith("#"))
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def installed(library: str) -> tuple[str, dict[str, str]]:
    """The version and the hashes of what is installed."""
    folder = Path(importlib.util.find_spec(library).origin).parent
    return version(library), sources(lambda file: (folder / file).read_text(encoding="utf-8"), library)


def record(wheels: Path) -> None:
    """Write `internals.json` from wheels."""
    found: dict[str, dict[str, list[str]]] = {}
    order = lambda wheel: [int(part) for part in wheel.name.split("-")[1].split(".")]  # noqa: E731
    for library in FUNCTIONS:
        for wheel in sorted(wheels.glob(f"{library}-*.whl"), key=order):
            with zipfile.ZipFile(wheel) as archive:
                hashes = sources(lambda file: archive.read(f"{library}/{file}").decode(), library)  # noqa: B023
            for name, code in hashes.items():
                found.setdefault(name, {}).setdefault(code, []).append(wheel.name.split("-")[1])
    RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True)
    record(parser.parse_args().wheels)
