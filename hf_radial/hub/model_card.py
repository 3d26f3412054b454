"""The model card of a run. All its numbers come from the run's record and log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from hf_radial.runs.onset import format_step
from hf_radial.runs.record import RadialRun, describe_run
from hf_radial.runs.shipped import card_template
from hf_radial.safe_files import replacing

TEMPLATE = "run_card.md"
CURVES = "curves.png"
TRAINING_FIELDS = (
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "seed",
)
GENERIC_USAGE = """from transformers import AUTO

model = AUTO.from_pretrained("{model_id}")"""
# Plain AutoModel would drop the heads of these.
AUTO_CLASSES = {
    "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
}


def write_model_card(
    trainer: RadialRun,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> Path:
    """Write `README.md` into the trainer's output directory; the arguments are `Trainer.create_model_card`'s.

    The trainer's `run_facts` (a dict) hold what the trainer cannot know. The card uses `title`, `usage` (a code snippet in
    which `{model_id}` stands for the model), `results` (a dict with `exact_match` and `problems` under `test`, and the numbers
    of `hf_radial.runs.onset.summarise`), `limits` and `license`. It lists the rest under "Task and data".
    """
    folder = Path(str(trainer.args.output_dir))
    card = make_card(
        describe_run(trainer),
        trainer.state.log_history,
        # `push_to_hub` sets the repository's name before it makes the card.
        getattr(trainer, "hub_model_id", None) or str(folder),
        steps=trainer.state.global_step,
        curves=(folder / CURVES).is_file(),
        title=model_name or folder.name,
        language=language,
        license=license,
        tags=_listed(tags),
        base_model=finetuned_from,
        tasks=_listed(tasks),
        datasets=_listed(dataset_tags or dataset),
    )
    path = folder / "README.md"
    with replacing(path) as new:
        card.save(new)
    return path


def make_card(
    record: dict[str, Any],
    log: list[dict[str, Any]],
    model_id: str,
    *,
    steps: int,
    title: str,
    curves: bool = False,
    language: str | None = None,
    license: str | None = None,
    tags: Sequence[str] = (),
    base_model: str | None = None,
    tasks: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> ModelCard:
    """The card of a run.

    Args:
        record: the content of `run.json`; see `write_model_card` for its `facts`.
        log: the `log_history` of the trainer's state.
        model_id: the repository or folder that the code in the card loads.
        steps: number of optimizer steps.
        title: the title if the facts have none.
        curves: whether there is a `curves.png` beside the card.
    """
    facts = dict(record["facts"])
    results = facts.pop("results", {})
    title = facts.pop("title", title)
    usage = facts.pop("usage", GENERIC_USAGE.replace("AUTO", _auto_class(record["model"]["class"])))
    limits = facts.pop("limits", "Trained for research on delayed generalisation; nothing beyond the task above was tested.")
    license = license or facts.pop("license", None)
    radial = record["radial"]
    data = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        tags=[*tags, "hf_radial", "grokking", "arxiv:2606.32000"],
        base_model=base_model,
        datasets=list(datasets) or None,
        model_name=title,
        eval_results=_eval_results(results, facts, tasks),
    )
    return ModelCard.from_template(
        data,
        template_str=card_template(TEMPLATE),
        title=title,
        model_class=record["model"]["class"],
        parameters=record["model"]["parameters"],
        arm=facts.get("arm", radial["variant"]),
        penalty_sentence=_penalty_sentence(radial),
        results=_results(results, log),
        curves=CURVES if curves else None,
        usage=_restored(usage, record).replace("{model_id}", model_id),
        facts=_bullets(facts) or "Not recorded; set `trainer.run_facts` before training.",
        variant=radial["variant"],
        radial_lambda=radial["radial_lambda"],
        warmup=radial["radial_warmup_steps"],
        schedule=radial["radial_schedule"],
        sites="\n".join(_site_row(site, log) for site in radial["sites"]),
        training=_bullets(
            {
                **{name: record["training_args"].get(name) for name in TRAINING_FIELDS},
                "processes": record["processes"],
                "optimizer steps done": steps,
            }
        ),
        versions=_bullets({**record["environment"]["versions"], "machine": record["environment"]["machine"]["device"]}),
        limits=limits,
    )


def rename_model(card: str, record: dict[str, Any], model_id: str) -> str:
    """A copy of a card whose code loads `model_id` instead of a local folder or another repository.

    >>> card = "## Use\\n\\nmodel = AutoModel.from_pretrained('runs/sums')\\n\\n## Task and data"
    >>> print(rename_model(card, {"training_args": {"output_dir": "runs/sums"}}, "org/sums"))
    ## Use
    <BLANKLINE>
    model = AutoModel.from_pretrained('org/sums')
    <BLANKLINE>
    ## Task and data
    """
    args = record["training_args"]
    folder = str(args["output_dir"])
    repository = str(args.get("hub_model_id") or Path(folder).name)
    names = [re.escape(folder), re.escape(repository), rf"[\w.-]+/{re.escape(repository)}"]  # the user's namespace is added
    before, heading, rest = card.partition("## Use\n")
    usage, following, after = rest.partition("\n## ")
    usage = re.sub(rf"""(["'])(?:{"|".join(names)})\1""", lambda match: match[1] + model_id + match[1], usage)
    return before + heading + usage + following + after


def _restored(usage: str, record: dict[str, Any]) -> str:
    """The code with what puts interventions in force again, of a model whose weights cannot hold them."""
    trained_with = (record["model"].get("config") or {}).get("hf_radial_interventions")
    if not trained_with or "restore(model)" in usage:
        return usage
    code = f"restore(model)  # trained with {', '.join(trained_with)}, which the weights do not hold"
    lines = [part for line in usage.split("\n") for part in ([line, code] if line.startswith("model = ") else [line])]
    return "\n".join(["from hf_radial.interventions import restore", *lines])


def _auto_class(model_class: str) -> str:
    return next((auto for auto, names in AUTO_CLASSES.items() if model_class in names.values()), "AutoModel")


def _penalty_sentence(radial: dict[str, Any]) -> str:
    if radial["variant"] == "none":
        return "no penalty; the radii below were only measured." if radial["sites"] else "no penalty; no radii were measured."
    kind = (
        "the hypersphere penalty as in arXiv 2606.32000"
        if radial["variant"] == "paper"
        else (f"a variant of the hypersphere penalty of arXiv 2606.32000 ({radial['variant']})")
    )
    return f"{kind}, with `radial_lambda = {radial['radial_lambda']}`."


def _results(results: dict[str, Any], log: list[dict[str, Any]]) -> str:
    if not results:
        last: dict[str, Any] = next((logs for logs in reversed(log) if any(name.startswith("eval_") for name in logs)), {})
        return _bullets({name: value for name, value in last.items() if name.startswith("eval_")}) or "No evaluation was run."
    lines = {}
    if test := results.get("test"):
        lines["exact match, greedy answers of the saved model"] = (
            f"{test['exact_match']:.2%} of {test['problems']:,} held-out problems"
        )
    end = results.get("last_step")
    lines["training exact match reached 99 %"] = format_step(results.get("fit_step"), end)
    if results.get("held_out_at_fit") is not None:
        lines["held-out exact match at that moment"] = f"{results['held_out_at_fit']:.1%}"
    lines["held-out exact match stays above 90 % from"] = format_step(results.get("onset_90"), end)
    lines["held-out exact match stays above 99 % from"] = format_step(results.get("onset_99"), end)
    return _bullets(lines)


def _site_row(site: dict[str, Any], log: list[dict[str, Any]]) -> str:
    radii = [logs[f"radius/{site['name']}"] for logs in log if f"radius/{site['name']}" in logs]
    ends = (f"{radii[0]:.2f}", f"{radii[-1]:.2f}") if radii else ("", "")
    target = "" if site["target"] is None else f"{site['target']:.2f}"
    return f"| `{site['name']}` | {site['width']} | {target} | {ends[0]} | {ends[1]} |"


def _eval_results(results: dict[str, Any], facts: dict[str, Any], tasks: Sequence[str]) -> list[EvalResult] | None:
    if "test" not in results:
        return None
    return [
        EvalResult(
            task_type=(tasks or ["text-generation"])[0],
            dataset_type=str(facts.get("dataset", "unknown")),
            dataset_name=str(facts.get("task", "unknown")),
            dataset_split="test",
            metric_type="exact_match",
            metric_value=round(results["test"]["exact_match"], 5),
        )
    ]


def _bullets(values: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items() if value is not None)


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
