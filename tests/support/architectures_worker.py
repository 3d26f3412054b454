"""Checks of each architecture: one JSON record per task and model type, resumable, and the table made from them.

python tests/support/architectures_worker.py                             # all, into recipes/results, as `make architectures`
python tests/support/architectures_worker.py OUTPUT.json causal-lm/gpt2 masked-lm/bert

Each runs in a process of its own, forked so that the imports are shared, with a limit on time and on memory. What the file
already holds is not run again, unless --repeat is given. A file belongs to one version of transformers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import textwrap
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from zoo import architectures, tiny_inputs, tiny_model, training_batch

from hf_radial import RadialPenalty
from hf_radial.runs.record import describe_environment
from hf_radial.sites.find import Sites, find_sites
from hf_radial.sites.site import Site, site_vectors

RESULTS = Path(__file__).resolve().parents[2] / "recipes" / "results"
SECONDS, ADDRESS_SPACE = 200, 8 << 30
INTRODUCTION = """
Made by `make architectures` from `architectures/*.json`: tiny random models of every architecture in four Auto mappings
of transformers. *Verified*: the self-check (`Sites.verify`) shows that each site's vectors are what the block adds to
its residual stream, by replay of the block (`out = in + sum of increments`) or by intervention (a change of the vectors
reaches the stream as that change, times a number for each channel or position), or, in a network without a residual
stream, that they are what goes into an activation; and their width is what the module says of itself, where it says.
*Penalty*: on a padded training batch, its value against one computed by hand from the vectors that are not padding (to
1e-5 and, in float32, 1e-4). *Refused*: an error names the block, or says why the padding cannot be told.
"""
UNKNOWN = {"builds": False, "runs": False, "trains": False}


def examine(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """The sites of each block, and what their self-check says."""
    try:
        sites = find_sites(model, inputs)
    except ValueError as error:
        return {"status": "refused", "reason": _line(error)}
    checks = sites.verify(inputs)
    return {
        "status": "verified" if all(check.ok for check in checks) and not wrong_widths(model, sites) else "failed",
        "blocks": dict(Counter(site.layer for site in sites)),
        "sites": len(sites),
        "how": sorted({check.how for check in checks}),
        "largest_error": max((check.error for check in checks if check.error is not None), default=None),
        "failures": [f"{check.block}: {check.reason}" for check in checks if not check.ok] + wrong_widths(model, sites),
        "unusual": sorted({what for site in sites for what in unusual(site)}),
    }


def wrong_widths(model: PreTrainedModel, sites: Sites) -> list[str]:
    """Sites whose width is not that which their module has by its own account: their channels are on another axis."""
    wrong = []
    for site in sites:
        module = model.get_submodule(site.name)
        widths = [getattr(module, name, None) for name in ("out_features", "nf", "num_features", "out_channels")]
        known = [width for width in widths if isinstance(width, int)]
        if known and site.index is None and not site.at_input and site.width not in known:
            wrong.append(f"{site.name}: width {site.width}, not {known[0]}")
    return wrong


def unusual(site: Site) -> list[str]:
    """What a hook that takes the output of a module, channels last, would get wrong."""
    facts = {
        "in a tuple": site.index is not None,
        "at a module's input": site.at_input,
        "channels first": site.dim != -1,
        "sequence first": site.sequence_first,
        "overwritten in place": site.in_place,
        "module with other uses": site.rank is not None,
    }
    return [what for what, holds in facts.items() if holds]


def check_penalty(model: PreTrainedModel, batch: dict[str, Any]) -> dict[str, Any]:
    """Value and gradient of the penalty of a padded training batch against those of its definition.

    The definition is taken from what the sites return in the same forward pass, the padding left out by hand.
    """
    model.train()
    try:
        penalty = RadialPenalty(model, 1.0, inputs={k: v[:2] for k, v in batch.items() if isinstance(v, torch.Tensor)})
    except ValueError as error:
        return {"penalty": "refused", "penalty_reason": _line(error)}
    seen: dict[str, list[torch.Tensor]] = {}
    modules = dict(model.named_modules())
    for site in penalty.sites:

        def keep(module: Any, args: Any, kwargs: Any, output: Any = None, site: Site = site) -> None:
            if (h := site_vectors(site, args, kwargs, output)) is not None:
                seen.setdefault(site.name, []).append(h.clone().double().movedim(site.dim, -1))

        module = modules[site.name]
        register = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
        register(keep, with_kwargs=True)
    with penalty:
        try:
            model(**batch)
        except (ValueError, RuntimeError) as error:
            if "sites: " not in str(error) and "site '" not in str(error):
                raise
            return {"penalty": "refused", "penalty_reason": _line(error)}
        value = penalty()
    expected = torch.zeros((), dtype=torch.float64)
    for site in penalty.sites:
        radii = torch.cat([real_vectors(h, batch, site.mask).norm(dim=-1) for h in seen[site.name]])
        d = seen[site.name][0].shape[-1]
        expected = expected + ((radii - d**0.5) ** 2).mean() / d
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    right = torch.autograd.grad(expected, parameters, allow_unused=True)
    size = sum(g.double().square().sum() for g in right if g is not None)
    pairs = [(g, h) for g, h in zip(ours, right, strict=True) if g is not None or h is not None]
    apart = sum(((0 if g is None else g.double()) - (0 if h is None else h.double())).square().sum() for g, h in pairs)
    errors = abs(value.item() / expected.item() - 1), float((apart / size).sqrt())
    # Batch norms over two rows make more of float32's rounding.
    return {"penalty": "right" if errors[0] < 1e-5 and errors[1] < 1e-4 else "wrong", "penalty_errors": errors}


def real_vectors(h: torch.Tensor, batch: dict[str, Any], mask_name: str | None) -> torch.Tensor:
    """The vectors that are not padding, shape `(vectors, d)`."""
    mask = batch.get(mask_name) if mask_name else None
    if mask is None and mask_name == "decoder_attention_mask" and batch.get("labels") is not None:
        mask = batch["labels"] != -100
    flat = h.reshape(-1, h.shape[-1])
    if mask is None or mask.ndim != 2:
        return flat
    if h.ndim == 3 and h.shape[:2] == mask.T.shape != mask.shape:
        mask = mask.T
    return flat[mask.reshape(-1).bool()]


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
            report.update(check_training(task, model_type))
            report["trains"] = True
        except Exception as error:
            report["training_error"] = _line(error)
        connection.send(report)


def check_training(task: str, model_type: str) -> dict[str, Any]:
    """One forward and backward in train mode, on a padded batch; then again with the penalty."""
    model = tiny_model(task, model_type).train()
    batch = training_batch(task, model)
    loss = model(**batch).loss
    if loss is not None:
        _require_finite(loss)
        loss.backward()
    return check_penalty(tiny_model(task, model_type), batch)


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


def load() -> list[dict[str, Any]]:
    """The committed documents, newest transformers first."""
    documents = [json.loads(file.read_text()) for file in (RESULTS / "architectures").glob("*.json")]
    return sorted(documents, key=lambda document: [int(n) for n in document["transformers"].split(".")], reverse=True)


def render(documents: list[dict[str, Any]]) -> str:
    """`architectures.md`, from nothing but the data."""
    newest = documents[0]["architectures"]
    lines = [
        "# Sites of every architecture",
        "",
        *textwrap.wrap(INTRODUCTION, 124),
        "",
        "| transformers | listed | built and run | verified | refused | failed | penalty right | refused | wrong |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for document in documents:
        records = document["architectures"].values()
        status = Counter(r.get("status") for r in records)
        penalty = Counter(r.get("penalty") for r in records)
        numbers = (
            *(len(records), sum(r["runs"] for r in records), status["verified"], status["refused"], status["failed"]),
            *(penalty["right"], penalty["refused"], penalty["wrong"]),
        )
        lines.append(f"| {document['transformers']} | " + " | ".join(map(str, numbers)) + " |")
    for document in documents[1:]:
        missing = sorted(set(newest) - set(document["architectures"]))
        lines += ["", f"transformers {document['transformers']} lacks: {', '.join(missing) or 'none of them'}."]
    not_run = [f"`{name}` ({record.get('error', '')})" for name, record in newest.items() if not record["runs"]]
    lines += ["", f"Not built or run: {'; '.join(not_run)}.", "", f"## transformers {documents[0]['transformers']}", ""]
    lines += [
        "| architecture | sites per block | sites | status | shown by | largest error | penalty | unusual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, record in newest.items():
        if record["runs"]:
            counts = sorted(set(record.get("blocks", {}).values()))
            status = record.get("status", record.get("error", "not examined"))
            reason = record.get("reason", "; ".join(record.get("failures", [])))
            error = record.get("largest_error")
            cells = (
                name,
                ", ".join(map(str, counts)),
                str(record.get("sites", "")),
                status + (f": {reason}" if reason else ""),
                ", ".join(record.get("how", [])),
                "" if error is None else f"{error:.0e}",
                ": ".join(filter(None, [record.get("penalty", record.get("training_error")), record.get("penalty_reason")])),
                ", ".join(record.get("unusual", [])),
            )
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def summary(documents: list[dict[str, Any]]) -> str:
    """The same in a sentence for each version, for the documentation."""
    sentences = []
    for document in documents:
        records = [record for record in document["architectures"].values() if record["runs"]]
        status, penalty = (Counter(record.get(key) for record in records) for key in ("status", "penalty"))
        sentences.append(
            f"- With transformers {document['transformers']}: found and verified in {status['verified']} of {len(records)} "
            f"architectures (refused with an error: {status['refused']}; failing the check: {status['failed']}). On a padded "
            f"batch, value and gradient of the penalty are right in {penalty['right']}, refused with an error (mostly as the "
            f"padding cannot be told) in {penalty['refused']}, wrong in {penalty['wrong']}."
        )
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, 128, subsequent_indent="  ")]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=RESULTS / "architectures" / f"{transformers.__version__}.json")
    parser.add_argument("names", nargs="*", metavar="TASK/MODEL_TYPE", default=["all"])
    parser.add_argument("--repeat", action="store_true", help="repeat what the file holds already")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)

    known = {f"{task}/{model_type}": (task, model_type) for task, model_type in architectures()}
    names = list(known) if options.names == ["all"] else options.names
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"transformers {transformers.__version__} has no {', '.join(unknown)}")
    document: dict[str, Any] = {
        "transformers": transformers.__version__,
        "environment": describe_environment(),
        "architectures": {},
    }
    if options.output.exists() and not options.repeat:
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
    if options.output.resolve().parent == RESULTS / "architectures":
        (RESULTS / "architectures.md").write_text(render(load()))
        print("then: make tables")


if __name__ == "__main__":
    main()
