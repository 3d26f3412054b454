"""Rivals beside their authors' own code: the same steps of the same small network, in float64.

    git clone https://github.com/ironjr/grokfast CODE/grokfast      # and the others in SOURCES, each at the commit named
    python recipes/authors_check.py CODE

Ours goes through a `Trainer` with the intervention; theirs through a loop that calls their functions. What is printed, and
written to recipes/results/authors_check.{json,md}, is how far apart the weights are then, by the length of what was changed.
Code that is not in CODE has its row marked "not yet run". SOURCES, and their loops, are in benchmarks/authors.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from benchmarks.authors import (  # noqa: E402
    DECAY,
    RATE,
    SOURCES,
    STEPS,
    Loop,
    P,
    commit_of,
    fresh,
    load,
    no_rounding,
    one_direction,
    rows,
    theirs,
)
from hf_radial.interventions import add_interventions  # noqa: E402
from hf_radial.runs.record import describe_environment  # noqa: E402
from hf_radial.tasks.tensor_rows import as_batch  # noqa: E402

RESULTS = ROOT / "recipes" / "results"


def ours(text: str) -> tuple[Any, list[list[str]]]:
    """The network after the steps, and the names of decayed and other parameters, as `Trainer` has them."""
    model = fresh(text)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=P * P,
            learning_rate=RATE,
            weight_decay=DECAY,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            optim="adamw_torch",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model=model, args=args, train_dataset=rows(), data_collator=as_batch)
        decayed = set(trainer.get_decay_parameter_names(model))
        add_interventions(trainer, [text])
        trainer.train()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return model, [[name for name in names if name in decayed], [name for name in names if name not in decayed]]


def check(text: str, code: Any, loop: Loop) -> float:
    """Length of the difference of the weights, divided by the length of the change that the steps made."""
    model, names = ours(text)
    other, start = theirs(text, loop, code, names), fresh(text)
    flat = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (model, other, start)]
    return float((flat[0] - flat[1]).norm() / (flat[1] - flat[2]).norm())


def main(argv: Sequence[str]) -> None:
    doc: Any = __doc__
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("code", type=Path, help="folder with the authors' repositories")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where authors_check.{json,md} go")
    given = parser.parse_args(argv)
    if not given.code.is_dir():
        parser.error(f"{given.code} is no folder; clone the authors' repositories into it first")
    entries: list[dict[str, Any]] = []
    rounding = "an unknown amount"
    for text, (repository, commit, file, names, loop) in SOURCES.items():
        code = load(given.code, file, names)
        entry: dict[str, Any] = {"intervention": text, "repository": repository, "commit": commit, "difference": None}
        if code is not None:
            if file:
                entry["commit"] = commit_of(given.code, file) or commit
            if text == "muon":
                rounding = f"{check(text, code, loop):.1e}"
            with no_rounding(), one_direction():
                entry["difference"] = check(text, code, loop)
        entries.append(entry)
    data = {"steps": STEPS, "entries": entries, "environment": describe_environment()}
    (given.results / "authors_check.json").write_text(json.dumps(data, indent=1, default=str) + "\n")
    lines = [
        "# Rivals beside their authors' code",
        "",
        f"Made by `python recipes/authors_check.py CODE`: {STEPS} steps of the same small network in float64, ours through a "
        "Trainer, theirs through their own code. *Difference*: length of the difference of the weights, by that of what the "
        "steps changed. Muon's bfloat16 and the float32 of SOAP's authors are left in float64; as it stands, Muon's rounding "
        f"makes {rounding} of difference. SOAP trains the hidden matrices alone: where a gradient has not full rank, rounding "
        "decides its eigenbasis. Our SOAP updates it in float32.",
        "",
        "| intervention | authors' code | commit | difference |",
        "|---|---|---|---|",
    ]
    for entry in entries:
        found = "not yet run" if entry["difference"] is None else f"{entry['difference']:.1e}"
        lines.append(f"| `{entry['intervention']}` | {entry['repository']} | {entry['commit'][:10]} | {found} |")
    (given.results / "authors_check.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[4:]))


if __name__ == "__main__":
    main(sys.argv[1:])
