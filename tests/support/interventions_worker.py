"""One training for each intervention, in the launched number of processes; each rank saves its last weights.

torchrun --nproc_per_node 2 tests/support/interventions_worker.py FOLDER
"""

import os
import sys
import traceback
from pathlib import Path

from safetensors.torch import save_file
from transformers import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "interventions"))
from intervention_runs import SETTINGS, Ours, make, small_config, weights

from hf_radial.interventions import configure
from hf_radial.runs.start import end_processes

KINDS = {"Trainer": Trainer, "RadialTrainer": Ours}
# Those that meet the trainer's own penalty are tried in both.
CASES = [("Trainer", name) for name in SETTINGS] + [("RadialTrainer", name) for name in ("radial", "sam", "redo")]
WHOLE = 16  # rows of a step, over all processes


def train(folder, kind, name, processes):
    """The weights after three steps, which see the same 16 rows each in any number of processes."""
    trainer = make(
        folder / name,
        [SETTINGS[name]],
        KINDS[kind],
        configure(small_config(), [SETTINGS[name]]),
        per_device_train_batch_size=WHOLE // processes,
        train_sampling_strategy="sequential",
        max_steps=3,
        max_grad_norm=0.0,
    )
    trainer.train()
    return weights(trainer)


def main(folder):
    rank, processes = os.environ["RANK"], int(os.environ["WORLD_SIZE"])
    for kind, name in CASES:
        try:
            save_file(train(folder, kind, name, processes), folder / f"{kind}_{name}_rank{rank}.safetensors")
        except ValueError:  # refused, which the test may expect; the other cases go on
            (folder / f"{kind}_{name}_rank{rank}.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_processes()
