"""The rows of a comparison, from the folders of its runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_radial.comparison.grid import Grid, replicates_of
from hf_radial.comparison.outcome import RUN_FILE, outcome
from hf_radial.comparison.paired import paired_cells
from hf_radial.comparison.run_options import Run, read_run
from hf_radial.comparison.trials import judged_cells, tuning_cells
from hf_radial.comparison.tuning import sampler_name
from hf_radial.runs.record import describe_environment, made_on


def collect(grid: Grid, root: Path, command: str, jobs: int) -> dict[str, Any]:
    """All rows of a grid, and the facts that a reader needs to judge them.

    Args:
        root: the folder of the runs.
        command: the command line that makes the grid.
        jobs: how many runs were made at the same time.
    """
    rows = []
    replicates = replicates_of(grid)
    judged = paired_cells(grid) if grid.paired else [cell for one in replicates for cell in judged_cells(one, root)]
    tuned = [tuning_cells(one, setting, arm, root) for one in replicates for setting in grid.settings for arm in grid.arms]
    wanted = len(judged) if grid.paired else len(grid.settings) * len(grid.arms) * len(grid.seeds) * len(replicates)
    missing = wanted - len(judged) + sum(len(waiting) for _, waiting in tuned)
    for cell in [*(cell for done, _ in tuned for cell in done), *judged]:
        found = outcome(cell.folder(root))
        if found is None:
            missing += 1
            continue
        found.pop("traceback", None)
        if found["status"] == "failed":
            found["last"] = read_run(cell.options).epochs
        if cell.stage == "tuning":
            found.pop("curve", None)
        where = {
            "setting": cell.setting,
            "arm": cell.arm,
            "stage": cell.stage,
            "seed": cell.options["seed"],
            "drawn": cell.drawn,
            **({"replicate": cell.replicate} if grid.replicates or grid.paired else {}),
        }
        made_at = json.loads((cell.folder(root) / RUN_FILE).read_text()) if (cell.folder(root) / RUN_FILE).is_file() else {}
        environment = made_at.get("environment", {})
        facts = {"run": cell.folder(root).name, "revision": environment.get("revision"), "made_on": made_on(environment)}
        rows.append({**where, **found, "options": cell.options, **facts})
    base = Run(**{key: value for key, value in grid.base.items() if key in Run.__dataclass_fields__})
    return {
        "grid": grid.name,
        "title": grid.title,
        "question": grid.question,
        "reference": grid.reference,
        "published": list(grid.published),
        "command": command,
        "seeds": list(grid.seeds),
        "tuning": None
        if grid.tuning is None
        else {
            **asdict(grid.tuning),
            "sampler": sampler_name(),
            "own": {arm.name: arm.tune for arm in grid.arms if arm.tune},
        },
        **({"replicates": grid.replicates} if grid.replicates else {}),
        **({"paired": asdict(grid.paired)} if grid.paired else {}),
        "solved_at": base.solved_at,
        "solved_evaluations": base.solved_evaluations,
        "missing": missing,
        "jobs": jobs,
        "environment": describe_environment(),
        "rows": rows,
    }
