"""The models of the paper, trained again by the code of the comparisons, each with the card that its run writes.

    python recipes/cards.py                                     # all of them, in less than an hour on one core
    python recipes/cards.py --only transformer_add_p97
    python recipes/cards.py --of runs/addition_nanogpt_cpu/10.6M_paper_seed0/paper --name nanogpt_addition   # trained already
    hf-radial publish model runs/cards/mlp_add_p97 --repo ORG/NAME

Models stay in runs/cards. Cards go to model_cards/, and the data that they are made from to recipes/results/cards.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.comparison.run import exact_match, load_rows, make_run  # noqa: E402
from hf_radial.comparison.run_options import Run  # noqa: E402
from hf_radial.hub.model_card import make_card  # noqa: E402
from hf_radial.hub.usage import MODULAR_MLP  # noqa: E402
from hf_radial.runs.files import read_log, read_record  # noqa: E402
from hf_radial.runs.onset import summarise  # noqa: E402
from hf_radial.runs.record import RUN_FILE, STATE_FILE, describe_run  # noqa: E402
from hf_radial.runs.results import RESULTS_FILE  # noqa: E402

CARDS, DATA = ROOT / "model_cards", ROOT / "recipes" / "results" / "cards"
ADDITION = {"operation": "add", "digits": 3, "sampling": "uniform", "reverse": True, "zero_pad": True}
PAIRS: dict[str, Any] = {"fields": {"operation": "add", "p": 97}, "train_fraction": 0.5}
MODELS = {
    # The paper's arm at the paper's weight decay.
    "mlp_add_p97": Run(**PAIRS, width=512, embedding_size=256, weight_decay=1e-3, radial_lambda=0.05, epochs=4000),
    # The two-sided penalty prevents the fit here: this is the one-sided variant.
    "transformer_add_p97": Run(
        **PAIRS, model="transformer", interventions=["radial:strength=0.05,side=above"], epochs=400, evaluate_every=2
    ),
    "gpt2_addition": Run(
        task="digits",
        fields={**ADDITION, "train_size": 500, "validation_size": 1000, "test_size": 2000},
        model="transformer",
        width=64,
        batch_size=128,
        learning_rate=3e-3,
        radial_lambda=0.003,
        epochs=2000,
        evaluate_every=25,
    ),
}
USAGE = {
    "mlp": MODULAR_MLP,
    "transformer": """import torch
from transformers import AutoModelForSequenceClassification

model = AutoModelForSequenceClassification.from_pretrained("{model_id}")
print(model(input_ids=torch.tensor([OPERANDS])).logits.argmax(-1))""",
    "digits": """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model_id}")
model = AutoModelForCausalLM.from_pretrained("{model_id}")
prompt = tokenizer("PROMPT", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**prompt, do_sample=False, max_new_tokens=4)[0]))""",
}


def train(name: str, run: Run, folder: Path) -> dict[str, Any]:
    """Train and save one model in `folder`; returns what its card is made from."""
    made: dict[str, Any] = {}

    def keep(trainer: Any, result: dict[str, Any]) -> None:
        trainer.save_model()
        trainer.save_state()
        operands = trainer.train_dataset.columns["input_ids"][0].tolist()
        usage = USAGE["digits" if run.task == "digits" else run.model].replace("OPERANDS", str(operands))
        if run.task == "digits":
            from hf_radial.tasks.tokenizer import task_tokenizer

            task_tokenizer(run.task, **run.fields).save_pretrained(folder)
            usage = usage.replace("PROMPT", "012+345=")
        facts = {key: value for key, value in asdict(run).items() if value not in ("", [], {}, None, 0.0)} | {"seed": run.seed}
        trainer.run_facts = {"title": name, "usage": usage, "license": "apache-2.0", **facts}
        trainer.run_facts["results"] = {
            **summarise(trainer.state.log_history),
            "test": test_saved_model(folder, run),
            "status": result["status"],
        }
        record = json.loads(json.dumps(describe_run(trainer), default=str))
        made.update(name=name, record=record, steps=trainer.state.global_step, log=trainer.state.log_history)
        card_of(made, str(folder)).save(folder / "README.md")

    make_run(folder, asdict(run), keep)
    return made


def made_before(name: str, folder: Path) -> dict[str, Any]:
    """What the card is made from, of a run of recipes/addition.py that has ended.

    Raises:
        ValueError: `folder` holds no such run.
    """
    files = [folder / RUN_FILE, folder / STATE_FILE, folder.parent / RESULTS_FILE]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ValueError(f"--of {str(folder)!r} is no arm of a recipe's run that has ended: {missing[0]} is missing")
    record, log, results = read_record(files[0]), read_log(files[1]), json.loads(files[2].read_text())
    record["facts"]["results"] = next(result for result in results.values() if result["arm"] == folder.name)
    record["training_args"] = {key: value for key, value in record["training_args"].items() if not key.endswith("_dir")}
    return {"name": name, "record": record, "steps": log[-1]["step"], "log": log}


def test_saved_model(folder: Path, run: Run) -> dict[str, Any]:
    """Exact match of the saved model, loaded from disk, on the test rows, which nothing read before."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, EvalPrediction

    splits, _, language = load_rows(run)
    kind = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    model, columns = kind.from_pretrained(folder).eval(), splits["test"].columns
    with torch.no_grad():
        answers = model(input_ids=columns["input_ids"]).logits.argmax(-1)
    prediction: Any = EvalPrediction(answers.numpy(), columns["labels"].numpy())
    return {**exact_match(prediction), "problems": len(splits["test"])}


def card_of(made: dict[str, Any], model_id: str) -> Any:
    """The card, from what `train` returned."""
    return make_card(made["record"], made["log"], model_id, steps=made["steps"], title=made["name"])


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), help="which of them (all)")
    parser.add_argument("--of", type=Path, metavar="FOLDER", help="of an arm of recipes/addition.py: its card, no training")
    parser.add_argument("--name", help="of the model and its card, with --of")
    parser.add_argument("--epochs", type=int, help="fewer than a model's own, to try it out")
    parser.add_argument("--runs", type=Path, default=Path("runs/cards"), help="where models go (%(default)s)")
    parser.add_argument("--cards", type=Path, default=CARDS, help="where cards go")
    parser.add_argument("--data", type=Path, default=DATA, help="where the data of the cards go")
    options = parser.parse_args(argv)
    if (options.of is None) != (options.name is None):
        parser.error("--of and --name belong together")
    options.cards.mkdir(parents=True, exist_ok=True)
    options.data.mkdir(parents=True, exist_ok=True)
    if options.of:
        keep(made_before(options.name, options.of), options)
        return
    for name in options.only:
        run = replace(MODELS[name], **({"epochs": options.epochs} if options.epochs else {}))
        keep(train(name, run, options.runs / name), options)
        print(f"model {options.runs / name}")


def keep(made: dict[str, Any], options: argparse.Namespace) -> None:
    """Write a card, and the data that it is made from."""
    name = made["name"]
    (options.data / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    card_of(made, f"ORG/{name}").save(options.cards / f"{name}.md")
    print(f"card {options.cards / name}.md")


if __name__ == "__main__":
    main(sys.argv[1:])
