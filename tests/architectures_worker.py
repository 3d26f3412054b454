"""What can be said of each architecture: one JSON record per task and model type, resumable.

python tests/architectures_worker.py OUTPUT.json all
python tests/architectures_worker.py OUTPUT.json causal-lm/gpt2 masked-lm/bert

Each runs in a process of its own, forked so that the imports are shared, with a limit on time and on memory. What the file
already holds is not run again; delete an entry, or the file, to repeat it. A file belongs to one version of transformers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from zoo import architectures, tiny_inputs, tiny_model, training_batch

SECONDS, ADDRESS_SPACE = 200, 8 << 30
UNKNOWN = {"builds": False, "runs": False, "trains": False}


def examine(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """Whatever else is to be known of a model that builds and runs."""
    return {}


def check(task: str, model_type: str, connection: Connection) -> None:
    """Send the report after every step, so that one is left of a process that does not come to its end."""
    report: dict[str, Any] = dict(UNKNOWN)
    try:
        model = tiny_model(task, model_type)
        report.update(builds=True, model_class=type(model).__name__, parameters=model.num_parameters())
        connection.send(report)
        inputs = tiny_inputs(task, model)
        with torch.no_grad():
            _require_finite(model(**inputs))
        report["runs"] = True
        connection.send(report)
        report.update(examine(model, inputs))
    except Exception as error:
        report["error"] = _line(error)
    connection.send(report)
    if report["builds"]:
        try:
            check_training(task, model_type)
            report["trains"] = True
        except Exception as error:
            report["training_error"] = _line(error)
        connection.send(report)


def check_training(task: str, model_type: str) -> None:
    """One forward and backward in train mode, on a padded batch."""
    model = tiny_model(task, model_type).train()
    loss = model(**training_batch(task, model)).loss
    _require_finite(loss)
    loss.backward()


def _require_finite(outputs: Any) -> None:
    tensors = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    if not tensors or not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise ValueError("no outputs, or not finite")


def _process(task: str, model_type: str, connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    check(task, model_type, connection)


def _line(error: Exception) -> str:
    """The error on one line, without what changes from run to run."""
    return re.sub(r"0x[0-9a-f]+", "0x…", " ".join(f"{type(error).__name__}: {error}".split()))[:300]


def run(task: str, model_type: str) -> dict[str, Any]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_process, args=(task, model_type, sender))
    process.start()
    sender.close()  # the child's is the only one left: its end is the end of the reports
    report: dict[str, Any] = dict(UNKNOWN)
    end = time.monotonic() + SECONDS
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            report = receiver.recv()
        report["error"] = f"more than {SECONDS} s"
        process.kill()
    except EOFError:
        process.join()
        if process.exitcode != 0:
            report["error"] = f"the process ended with code {process.exitcode}"
    process.join()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="+", metavar="TASK/MODEL_TYPE", help="or `all`")
    options = parser.parse_args()

    known = {f"{task}/{model_type}": (task, model_type) for task, model_type in architectures()}
    names = list(known) if options.names == ["all"] else options.names
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"transformers {transformers.__version__} has no {', '.join(unknown)}")
    document: dict[str, Any] = {"transformers": transformers.__version__, "architectures": {}}
    if options.output.exists():
        document = json.loads(options.output.read_text())
        if document["transformers"] != transformers.__version__:
            parser.error(f"{options.output} is of transformers {document['transformers']}")

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    multiprocessing.set_start_method("fork")
    torch.set_num_threads(1)  # threads do not survive a fork
    records = document["architectures"]
    for name in names:
        if name in records:
            continue
        start = time.perf_counter()
        records[name] = run(*known[name])
        partial = options.output.with_suffix(".partial")
        partial.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        partial.replace(options.output)
        record = records[name]
        state = " ".join(state for state in ("builds", "runs", "trains") if record[state]) or "fails"
        errors = " | ".join(record[key] for key in ("error", "training_error") if key in record)
        print(f"{name}  {state}  {time.perf_counter() - start:.1f} s  {errors}", flush=True)

    chosen = [records[name] for name in names]
    counts = ", ".join(f"{sum(record[state] for record in chosen)} {state[:-1]}" for state in ("builds", "runs", "trains"))
    print(f"{len(chosen)} architectures: {counts}")


if __name__ == "__main__":
    main()
