"""A run with a GrokkingCallback in the launched number of processes, and the same run resumed where it stopped.

torchrun --nproc_per_node 2 tests/support/grokking_worker.py FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from scripted import HELD_OUT, TRAIN, announced, scripted

from hf_radial import GrokkingCallback
from hf_radial.runs.start import end_processes

MEMORISES = [0.5] + [1.0] * 8
GENERALISES = [0.0, 0.1, 0.95, 0.5, 0.91, 0.93, 0.99, 1.0, 1.0]


class Spoken(logging.Handler):
    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage().startswith("grokking:")


def main(folder: Path) -> None:
    spoken, logger = Spoken(), logging.getLogger("hf_radial")
    logger.addHandler(spoken)
    logger.setLevel(logging.INFO)

    def make(grokking: GrokkingCallback):
        # The oldest transformers cannot load an optimizer in several processes on a CPU; no step is made with it here.
        options = {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
        return scripted(folder / "run", MEMORISES, GENERALISES, [grokking], **options)

    grokking = GrokkingCallback(TRAIN, HELD_OUT, stop_evaluations=3)
    trainer = make(grokking)
    trainer.train()
    result = {
        "step": trainer.state.global_step,
        "announced": announced(trainer.state.log_history),
        "summary": grokking.summary,
        "spoken": spoken.count,
    }
    resumed = make(GrokkingCallback(TRAIN, HELD_OUT, stop_evaluations=3))
    resumed.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-7"))
    result["resumed_step"] = resumed.state.global_step
    (folder / f"rank{trainer.args.process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_processes()
