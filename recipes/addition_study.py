"""Which penalty, if any, shortens the delay on 3-digit addition with 500 rows? The runs behind recipes/results/addition_cpu.*.

    python recipes/addition_study.py            # everything that is not done yet: about an hour on 2 cores
    python recipes/addition_study.py --report   # only the files, from the runs that are done

Every variant of the penalty gets the same small set of lambdas on one tuning seed; its best one is then judged beside "no
penalty" on other seeds (weights, order of the data, and rows all differ by seed), all for the same number of steps.
Each cell of the grid is one process of recipes/addition.py. A cell that is done is not run again; one that fails is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_radial.comparison.variants import COLUMNS, medians, plot, row
from hf_radial.runs.onset import HELD_OUT_METRIC, first_streak, summarise
from hf_radial.runs.processes import as_flags, run_processes
from hf_radial.runs.record import RUN_FILE, STATE_FILE
from hf_radial.runs.results import RESULTS_FILE, accuracies_in_row, in_file_name, radii_in_row, record_in_row

HERE = Path(__file__).parent
RESULTS = HERE / "results"
RUNS = Path("runs/addition_study")
LAMBDAS = (0.003, 0.01, 0.03)
TUNING_SEED = 100
JUDGED_SEEDS = (0, 1, 2, 3, 4)
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "one-sided, target 4": {"radial_side": "above", "radial_radius": "4"},
    "warm-up 1000": {"radial_warmup_steps": 1000},
}
NO_PENALTY = "no penalty"


@dataclass(frozen=True)
class Cell:
    """One run: a variant, its lambda, and the seed of weights, order and rows."""

    variant: str
    radial_lambda: float
    seed: int

    @property
    def folder(self) -> Path:
        name = in_file_name(self.variant)
        return RUNS / f"{name}_lambda{self.radial_lambda:g}_seed{self.seed}"

    def command(self) -> list[str]:
        arm = "none" if self.variant == NO_PENALTY else "penalty"
        options = {
            "radial_lambda": self.radial_lambda,
            "radial_radius": "sqrt_d",
            "radial_side": "both",
            "radial_warmup_steps": 0,
            **VARIANTS.get(self.variant, {}),
            "seed": self.seed,
            "task_seed": self.seed,
            # All judged runs have the same length. A tuning run may stop at its onset, because tuning uses nothing later.
            "solved_at": 0.995 if self.seed == TUNING_SEED else 2,
            "output_dir": self.folder,
            "max_steps": 3000,
            "save_strategy": "no",
            "load_best_model_at_end": "false",
            "disable_tqdm": "true",
        }
        return [sys.executable, str(HERE / "addition.py"), "--preset", "addition_cpu", "--arms", arm, *as_flags(options)]

    def result(self) -> dict[str, Any] | None:
        """What the run left, or `None` if it is not done."""
        file = self.folder / RESULTS_FILE
        if not file.is_file():
            return None
        (result,) = json.loads(file.read_text()).values()
        arm = self.folder / result["arm"]
        log = json.loads((arm / STATE_FILE).read_text())["log_history"]
        run = json.loads((arm / RUN_FILE).read_text())
        radius_steps, radii = radii_in_row(log, [site["name"] for site in run["radial"]["sites"]])
        return {
            "variant": self.variant,
            "radial_lambda": self.radial_lambda,
            "seed": self.seed,
            "test_exact_match": result["test"]["exact_match"],
            "test_problems": result["test"]["problems"],
            **summarise(log),
            "first_three_99": first_streak(log, HELD_OUT_METRIC, 0.99, 3),
            "seconds": next(logs["train_runtime"] for logs in log if "train_runtime" in logs),
            "curves": {**accuracies_in_row(log), "radius": radii, "radius_step": radius_steps},
            "run": record_in_row(run),
        }


def run_all(cells: list[Cell], jobs: int) -> None:
    """Run the cells that are not done, `jobs` at a time with one thread each."""
    waiting = [cell for cell in cells if cell.result() is None]
    for cell in waiting:
        shutil.rmtree(cell.folder, ignore_errors=True)  # an attempt that did not finish
    run_processes({cell.folder: cell.command() for cell in waiting}, jobs)


def speed(result: dict[str, Any]) -> tuple[float, float]:
    """The key that tuning ranks by: the first of three evaluations in a row at 99 %, or else the last held-out score."""
    onset = result["first_three_99"]
    return (float("inf") if onset is None else onset, -result["last_held_out"])


def tuning_cells() -> list[Cell]:
    """The grid, and a run without the penalty to compare it with."""
    return [Cell(NO_PENALTY, 0.0, TUNING_SEED), *(Cell(v, weight, TUNING_SEED) for v in VARIANTS for weight in LAMBDAS)]


def judged_cells(tuned: dict[str, float]) -> list[Cell]:
    """All arms of one seed before the next seed. An interrupted study then has complete comparisons."""
    arms = {NO_PENALTY: 0.0, **tuned}
    return [Cell(variant, weight, seed) for seed in JUDGED_SEEDS for variant, weight in arms.items()]


def best_lambdas() -> dict[str, float]:
    """The best lambda of each variant on the tuning seed. Variants without a finished run are left out."""
    results = [r for cell in tuning_cells() if (r := cell.result()) is not None]
    best: dict[str, float] = {}
    for variant in VARIANTS:
        own = [r for r in results if r["variant"] == variant]
        if own:
            best[variant] = min(own, key=speed)["radial_lambda"]
    return best


def report() -> None:
    """Write the results as JSON, the tables as Markdown (the last one also into the README) and the figure as PNG."""
    tuned = best_lambdas()
    if not any(cell.result() for cell in judged_cells(tuned)):
        raise SystemExit(f"no judged run is done in {RUNS}; run without --report first")
    data: dict[str, Any] = {
        "command": "python recipes/addition_study.py",
        "tuning": [cell.result() or missing(cell) for cell in tuning_cells()],
        "judged": [cell.result() or missing(cell) for cell in judged_cells(tuned)],
        "tuned_lambda": tuned,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "addition_cpu.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / "addition_cpu.md").write_text(markdown(data))
    plot(data["judged"], RESULTS / "addition_cpu.png")
    print("then: make tables")


def missing(cell: Cell) -> dict[str, Any]:
    return {"variant": cell.variant, "radial_lambda": cell.radial_lambda, "seed": cell.seed, "status": "not yet run"}


def markdown(data: dict[str, Any]) -> str:
    done = [r for r in data["judged"] if "status" not in r]
    first = done[0]["run"]
    versions, args = first["environment"]["versions"], first["training_args"]
    lines = [
        f"# 3-digit addition, {first['facts']['train_size']} rows: no penalty, the paper's, and {len(VARIANTS) - 1} variants",
        "",
        f"Made by `{data['command']}` from recipes/results/addition_cpu.json: {first['model']['class']} of "
        f"{first['model']['parameters']:,} parameters, {first['facts']['train_size']} rows, "
        f"{args['max_steps']:,} steps of batch {args['per_device_train_batch_size']}, AdamW, "
        f"learning rate {args['learning_rate']}, weight decay {args['weight_decay']}; "
        f"torch {versions['torch']}, transformers {versions['transformers']}, {first['environment']['machine']['device']}.",
        "",
        "Steps; an entry `> N` was not reached by step N, the end of the run. *Fit*: training exact match reaches 99 %.",
        "*Three at 99 %*: first of three evaluations in a row (100 steps apart) with held-out exact match of at least 99 %.",
        "*Stays above*: to the end of the run. *Test*: greedy generation by the saved model of the last step, reloaded, on",
        "held-out problems. Tuning runs end when they are solved; judged runs all have the same length.",
        "",
        "## Judged seeds, each variant at its best lambda of the tuning seed",
        "",
        *COLUMNS,
        *(row(r) for r in data["judged"]),
        "",
        f"## Tuning, seed {TUNING_SEED}",
        "",
        *edges(data["tuned_lambda"]),
        *COLUMNS,
        *(row(r) for r in data["tuning"]),
        "",
        "## Medians over the judged seeds",
        "",
        *medians(done, NO_PENALTY),
        "",
        "![held-out and training exact match, and radii](addition_cpu.png)",
        "",
    ]
    return "\n".join(lines)


def edges(tuned: dict[str, float]) -> list[str]:
    """A line for variants whose best lambda is the smallest or the largest that was tried: a better one may lie beyond."""
    at_edge = [f"{variant} ({weight:g})" for variant, weight in tuned.items() if weight in (min(LAMBDAS), max(LAMBDAS))]
    return [
        f"The best lambda lies at the edge of the grid, and a better one may lie beyond it, for: {'; '.join(at_edge)}.",
        "",
    ] * bool(at_edge)


def readme_table(data: dict[str, Any]) -> str:
    return "\n".join(medians([r for r in data["judged"] if "status" not in r], NO_PENALTY)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2)), help="runs at a time, one thread each")
    parser.add_argument("--report", action="store_true", help="write the files from what is done; run nothing")
    options = parser.parse_args()
    if not options.report:
        run_all(tuning_cells(), options.jobs)
        run_all(judged_cells(best_lambdas()), options.jobs)
    report()


if __name__ == "__main__":
    main()
