"""The paper's three propositions on five seeds of tuned runs, compared at matched onset.

    OMP_NUM_THREADS=1 python recipes/matched_onset.py     # 40 runs, 6 minutes of one free core; goes on where it stopped
    python recipes/matched_onset.py --table               # the page, from the rows that are there

Stated before any run of it:

- **Runs.** An MLP on a + b mod 97 (0.3 of the rows, grid `tuned`), and a transformer of two layers without LayerNorm on a + b
  mod 59 (half of the rows, grid `transformer`). With LayerNorm the paper's radius hardly ever generalises there, so that
  there would be no onset to compare at. Each arm has the settings that its own search chose. Where these are not AdamW's, a
  fourth arm has them without the penalty. Seeds and splits are new. The probe is 512 training rows. A run that never has
  three evaluations in a row at 95 % is *censored*: it is printed, and is in no statement.
- **Places** of a run, relative to its own onset: *half* (the first evaluation from half of the onset on), *onset*, and *end*
  (the third evaluation in a row at 95 %, where the run stops). Tuned runs fit and generalise together, so the fit is no
  place.
- **A statement** has a margin for each seed, positive where the proposition is right. *Yes*: the 95 % t interval of the mean
  margin is above 0. *No*: it is below 0. *Undecided* otherwise, and with fewer than 4 seeds.
- **Compared** means: with the run of the same seed of AdamW, and with that of the fourth arm where there is one.
- **Proposition 1**, at half and onset, at each site: (a) the cosine of the penalty's pull on `W` with `W Sigma_x` is above
  0.9; (b) it is above the cosine with `W`; (c) `W` lies less along the inputs' directions of high variance than in the
  compared run, as (a) and (b) would lead to. The alignment in (c) is `d_in E|Wx|^2 / (|W|^2 E|x|^2)`, 1 for inputs without
  such directions. The proposition assumes vectors far longer than the target. `1 - R/r`, which is 1 in that limit, is
  printed. Where the assumption fails, the statements are judged all the same: the question is whether the proposition
  describes these runs.
- **Proposition 2**, at half and onset, at each site: (a) the radial energy of the task's gradient is below 1; (b) it is below
  that of the compared run.
- **Proposition 3**, at onset and end: the Hessian's trace (a) and the normalised sharpness (b) are below those of the
  compared run.
- **Answers**, for each model and penalty. *Yes*: more than half of a proposition's statements are yes, and none is no. *No*:
  more than half are no. *Undecided* otherwise. The numbers of statements are printed.

Seen before these lines were written: two runs of six epochs, on another seed, which measured the cost. Then only toy runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # started as a script, this folder is on the path, but not the one above it

from hf_radial.comparison.matched_onset import ADAMW, INITIAL, PAPERS, PENALTIES, Rows, answer_table, without_penalty  # noqa: E402
from hf_radial.comparison.matched_onset import page as page_of  # noqa: E402
from hf_radial.comparison.run import make_run  # noqa: E402
from hf_radial.runs.record import describe_environment  # noqa: E402
from hf_radial.runs.script import run_recipe  # noqa: E402
from hf_radial.safe_files import write_text  # noqa: E402

RESULTS = ROOT / "recipes" / "results"
NAME, TITLE = "matched_onset", "The three propositions on five seeds, at matched onset"
# Each model: the committed grid and the setting of it that the tuned options come from.
MODELS = {
    "MLP": ("tuned", "mlp, operation add, p 97, train_fraction 0.3, batch_size 257, epochs 400"),
    "transformer": ("transformer", "layer_norm False"),
}
ARMS = {ADAMW: "AdamW", PAPERS: "penalty", INITIAL: "penalty, initial radius"}  # names here and in the grids
SEEDS = (600, 601, 602, 603, 604)
TINY = {"fields": {"operation": "add", "p": 23}, "train_fraction": 0.8, "width": 64, "embedding_size": 32, "batch_size": 106}
TINY |= {"learning_rate": 0.01, "epochs": 100}
PROBE_ROWS = 512
OF_SITES = ("prop1_shrink", "prop1_cosine", "prop1_weight_decay_cosine", "radial_energy", "radius_mean")
OF_MODEL = ("loss", "hessian_trace", "normalized_sharpness", "lambda_max")
CHEAP = ["radial", "proposition", "function"]
GROUPS = {
    "half": CHEAP,
    "onset": [*CHEAP, "curvature"],
    "end": [*CHEAP, "curvature"],
}  # curvature costs most, and only where used


# The runs -------------------------------------------------------------------------------------------------------------


def settings() -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> arm -> the options of its runs without the seed, as they were tuned in the committed grids."""
    found = {}
    for model, (grid, setting) in MODELS.items():
        rows = json.loads((RESULTS / "compare" / f"{grid}.json").read_text())["rows"]
        judged = {row["arm"]: row["options"] for row in rows if (row["stage"], row["setting"]) == ("judged", setting)}
        arms = {arm: without(judged[name], "seed") for arm, name in ARMS.items()}
        for arm in PENALTIES:
            bare = without(arms[arm], "radial_lambda", "interventions")
            if bare != arms[ADAMW]:
                arms[without_penalty(arm)] = bare
        found[model] = arms
    return found


def without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def make_row(model: str, arm: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Make one run, and measure it at its places. A censored run has none."""
    from transformers import TrainerCallback

    weights: dict[int, dict[str, Any]] = {}  # step -> state of the model, at each evaluation
    places: dict[str, Any] = {}

    class KeepWeights(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step not in weights:
                now = kwargs["model"].state_dict()
                weights[state.global_step] = {name: tensor.clone() for name, tensor in now.items()}

    def measure_places(trainer: Any, result: dict[str, Any]) -> None:
        if result["status"] != "solved":
            return
        batch = trainer.train_dataset.first(PROBE_ROWS).columns
        for place, step in steps_of(list(weights), result["onset_steps"], result["last_steps"]).items():
            trainer.model.load_state_dict(weights[step])
            epoch = step / trainer.run_facts["steps_per_epoch"]
            places[place] = {"epoch": epoch, **numbers(trainer.model, batch, trainer.radial_penalty, GROUPS[place])}

    with tempfile.TemporaryDirectory() as folder:
        result = make_run(Path(folder), {**options, "seed": seed}, measure_places, [KeepWeights()])
    kept = {name: result[name] for name in ("status", "fit", "onset", "last", "test")}
    return {"model": model, "arm": arm, "seed": seed, **kept, "options": options, "places": places}


def steps_of(evaluated: Sequence[int], onset: int, last: int) -> dict[str, int]:
    """Place -> step, of the steps with an evaluation.

    >>> steps_of([10, 20, 30, 40, 50], onset=30, last=50)
    {'half': 20, 'onset': 30, 'end': 50}
    """
    return {"half": min(step for step in evaluated if 2 * step >= onset), "onset": onset, "end": last}


def numbers(model: Any, batch: dict[str, Any], penalty: Any, groups: Sequence[str]) -> dict[str, Any]:
    """What is kept of a measurement: numbers of the model as a whole, and of each site."""
    from hf_radial.geometry.measure import measure

    of_sites: dict[str, dict[str, float]] = {
        site: {"alignment": value} for site, value in alignments(model, batch, penalty).items()
    }
    of_model = {}
    for reading in measure(model, batch, groups, penalty=penalty).readings:
        if reading.site in of_sites and reading.metric in OF_SITES and reading.index is None:
            of_sites[reading.site][reading.metric] = reading.value
        elif not reading.site and reading.metric in OF_MODEL:
            of_model[reading.metric] = float(f"{reading.value:.6g}")
    short = {site: {name: float(f"{value:.6g}") for name, value in own.items()} for site, own in of_sites.items()}
    return {**of_model, "sites": short}


def alignments(model: Any, batch: dict[str, Any], penalty: Any) -> dict[str, float]:
    """Site -> the alignment of its weight with its inputs."""
    from hf_radial.geometry.observe import observe, quiet
    from hf_radial.geometry.proposition import weight_of

    found = {}
    with quiet(model) as measured:
        for view in observe(measured, batch, list(penalty.sites), with_inputs=True).sites:
            weight = weight_of(measured.get_submodule(view.site.name))
            if weight is None or view.inputs is None:
                raise ValueError(f"site {view.site.name!r} is no linear layer, so it has no W to measure")
            found[view.site.name] = alignment(view.inputs, weight.detach())
    return found


def alignment(x: Any, weight: Any) -> float:
    """`d_in E|Wx|^2 / (|W|^2 E|x|^2)` of a weight `(d, d_in)` and inputs `(N, d_in)`, in float64.

    >>> import torch
    >>> alignment(torch.eye(2), torch.eye(2)), alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    (1.0, 2.0)
    """
    x, weight = x.double(), weight.double()
    return float(weight.shape[1] * (x @ weight.T).square().sum() / (weight.square().sum() * x.square().sum()))


# From start to end ----------------------------------------------------------------------------------------------------


def page(data: dict[str, Any]) -> str:
    return page_of(data, TITLE, "Stated" + (__doc__ or "").partition("\nStated")[2])


def main(argv: Sequence[str]) -> Path:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows and page go (%(default)s)")
    parser.add_argument("--table", action="store_true", help="run nothing; write the page from the rows that are there")
    parser.add_argument("--rehearse", action="store_true", help="tiny models and two seeds; give other --results")
    options = parser.parse_args(argv)
    file = options.results / f"{NAME}.json"
    if options.rehearse and options.results.resolve() == RESULTS:
        raise ValueError(f"--rehearse would write to {options.results}; give another folder with --results")
    if options.table and not file.is_file():
        raise ValueError(f"--table: there is no {file}; leave it out to make the runs")
    seeds, changed = (SEEDS[:2], TINY) if options.rehearse else (SEEDS, {})
    cells = [(model, arm, own) for model, arms in settings().items() for arm, own in arms.items()]
    plan = [(model, arm, seed, {**own, **changed}) for seed in seeds for model, arm, own in cells]
    data: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"rows": []}
    rows: Rows = data["rows"]
    there = {(row["model"], row["arm"], row["seed"]) for row in rows}
    options.results.mkdir(parents=True, exist_ok=True)
    for cell in tqdm([] if options.table else [cell for cell in plan if cell[:3] not in there], unit="run", dynamic_ncols=True):
        rows.append(make_row(*cell))
        said = {"command": f"python recipes/{NAME}.py", "environment": describe_environment(), "missing": len(plan) - len(rows)}
        data = {**said, "rows": rows}
        write_text(file, json.dumps(data, separators=(",", ":")) + "\n")
    write_text(file.with_suffix(".md"), page(data))
    print(answer_table(rows))
    return file


if __name__ == "__main__":
    run_recipe(main)
