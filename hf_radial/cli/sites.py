"""`hf-radial sites MODEL_OR_CONFIG`: where the penalty would go in a model, and whether that is right."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_radial.sites.find import Sites

AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModel",
)


def add_to(commands: Any) -> None:
    """Add the subcommand to the parser."""
    sites = commands.add_parser(
        "sites",
        help="show where the penalty goes in a model",
        description="Show the modules whose vectors are penalised. Only the configuration is read, no weights.",
    )
    sites.set_defaults(run=run)
    sites.add_argument("model", metavar="MODEL_OR_CONFIG", help="a folder or Hub name with a config.json")
    sites.add_argument("--sites", nargs="+", metavar="PATTERN", default=[], help="take these modules instead: globs, or re:...")
    sites.add_argument("--exclude", nargs="+", metavar="PATTERN", default=[], help="leave these modules out")
    sites.add_argument(
        "--where", choices=["increment", "pre_norm"], default="increment", help="behind a sublayer's norm or before it"
    )
    sites.add_argument(
        "--verify", action="store_true", help="check each block on random weights: does out = in + increments hold?"
    )
    sites.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    import torch

    from hf_radial.sites.find import default_inputs, find_sites

    patterns = [*options.sites, *(f"!{pattern}" for pattern in options.exclude)] or None
    model: PreTrainedModel | None = None if options.verify else _model(options.model, "meta")
    sites: Sites | None = None
    if model is not None:
        try:  # on the meta device, which holds no weights: this takes seconds, however large the model
            inputs = default_inputs(model)
            if "input_ids" in inputs:
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            sites = find_sites(model, inputs, patterns, options.where)
        except Exception:  # the forward of some models reads values: such a model is built in full
            model = None
    if model is None or sites is None:
        _check_memory(_model(options.model, "meta"))
        model = _model(options.model, "cpu")
        sites = find_sites(model, sites=patterns, where=options.where)
    checks = sites.verify() if options.verify else []
    if options.json:
        found: dict[str, Any] = {"model": type(model).__name__, "sites": [asdict(site) for site in sites]}
        if options.verify:
            found["checks"] = [asdict(check) for check in checks]
        print(json.dumps(found, indent=2))
    else:
        print(f"{type(model).__name__}, {len(sites)} sites\n\n{sites}")
        if checks:
            print()
        for check in checks:
            error = "" if check.error is None else f", relative error {check.error:.1e}"
            print(f"{check.block or '-'}: {check.how}{error}{': ' + check.reason if check.reason else ''}")
    return 0 if all(check.ok for check in checks) else 1


def _model(name: str, device: str) -> PreTrainedModel:
    """The model of a configuration, with random weights. Its class is the one that the configuration names."""
    import torch
    import transformers

    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith(("./", "../", "~")) or name.count("/") > 1):
        raise ValueError(
            "there is no such folder; give one with a config.json, or a name of the Hub such as openai-community/gpt2"
        )
    if path.is_dir() and not (path / "config.json").exists():
        raise ValueError("the folder has no config.json; give the folder that save_pretrained wrote, such as a checkpoint-N")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError):  # says what is wrong
        raise
    except Exception as error:  # a field of the configuration, say
        raise ValueError(f"its config.json makes no configuration: {_in_one_line(error)}") from error
    if device == "meta":  # these implementations read no values
        config._attn_implementation, config._experts_implementation = "eager", "batched_mm"
    named = getattr(transformers, (config.architectures or [""])[0], None)
    is_model = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    reasons = {}
    torch.manual_seed(0)
    with torch.device(device):
        kinds: list[Any] = [named] if is_model else [getattr(transformers, auto_class) for auto_class in AUTO_CLASSES]
        for kind in kinds:
            try:
                return kind(config) if is_model else kind.from_config(config)
            except Exception as error:  # not of this kind, or a value of the configuration that no model can have
                if "Unrecognized configuration class" not in str(error):
                    reasons[_in_one_line(error)] = kind.__name__
    why = f": {', '.join(reasons)}" if reasons else ""
    raise ValueError(f"no model class of transformers takes its configuration {type(config).__name__}{why}")


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _check_memory(model: PreTrainedModel) -> None:
    needed, there = 4 * model.num_parameters(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"{type(model).__name__} needs {needed / 1e9:.0f} GB to be built in full; this machine has "
            f"{there / 1e9:.0f} GB. Try a configuration with fewer layers"
        )
