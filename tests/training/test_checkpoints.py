"""Loading checkpoints: a run resumes from the newest complete one, and tied weights give no warning."""

from __future__ import annotations

import shutil

import pytest
import torch
from reference import tiny_gpt2, token_rows
from transformers import Trainer, TrainingArguments

from hf_radial import RadialTrainer
from hf_radial.runs.resume import checkpoints, is_complete, last_complete_checkpoint


def trainer(folder, steps=4, **options):
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        save_steps=2,
        logging_steps=1,
        lr_scheduler_type="constant",  # does not depend on max_steps
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return RadialTrainer(
        model=tiny_gpt2(), args=args, radial_lambda=0.1, train_dataset=token_rows(16, False), eval_dataset=token_rows(4, False)
    )


def kill_while_saving(checkpoint, into, written):
    """What a killed process leaves of a checkpoint: some files, and perhaps the first half of `trainer_state.json`."""
    into.mkdir()
    for name in written:
        shutil.copy(checkpoint / name, into / name)
    if "trainer_state.json" in written:
        state = into / "trainer_state.json"
        state.write_bytes(state.read_bytes()[:100])


@pytest.mark.parametrize("written", [[], ["config.json", "model.safetensors"], ["model.safetensors", "trainer_state.json"]])
def test_a_run_killed_while_saving_goes_on_from_the_newest_complete_checkpoint(tmp_path, written, caplog):
    whole = trainer(tmp_path / "whole", steps=6)
    whole.train()
    trainer(tmp_path / "killed").train()
    kill_while_saving(tmp_path / "killed" / "checkpoint-4", tmp_path / "killed" / "checkpoint-10", written)
    assert [path.name for path in checkpoints(tmp_path / "killed")] == ["checkpoint-2", "checkpoint-4", "checkpoint-10"]
    resumed = trainer(tmp_path / "killed", steps=6)
    resumed.train(resume_from_checkpoint=True)
    assert [logs["step"] for logs in resumed.state.log_history if "loss" in logs] == [1, 2, 3, 4, 5, 6]
    theirs = whole.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.model.state_dict().items())
    assert caplog.text.count("goes on from") == 1
    assert "checkpoint-4. Skipped, because not written to the end: checkpoint-10" in caplog.text


def test_a_checkpoint_of_an_earlier_run_that_was_half_overwritten_is_not_complete(tmp_path, monkeypatch):
    trainer(tmp_path).train()
    again = trainer(tmp_path)

    def killed(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(again, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        again.train()
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert not is_complete(tmp_path / "checkpoint-2")


def test_without_a_complete_checkpoint_it_says_what_to_do(tmp_path):
    (tmp_path / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"no complete checkpoint: checkpoint-2 was not written.*without resume_from_checkpoint"
    ):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_complete_checkpoint_is_resumed_from_without_a_warning(tmp_path, caplog):
    trainer(tmp_path).train()
    (tmp_path / "checkpoint-best").mkdir()  # somebody else's folder
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    trainer(tmp_path, steps=5).train(resume_from_checkpoint=True)
    assert "Skipped" not in caplog.text


BEST = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}


def test_tied_weights_are_not_reported_as_missing(tmp_path, caplog):
    trainer(tmp_path, **BEST).train()
    assert "missing keys" not in caplog.text


def test_weights_that_are_missing_are_still_reported(tmp_path, caplog):
    one = trainer(tmp_path)
    result = torch.nn.modules.module._IncompatibleKeys(["lm_head.weight", "transformer.ln_f.weight"], ["other"])
    one._issue_warnings_after_load(result)
    assert "missing keys in the checkpoint model loaded: ['transformer.ln_f.weight']" in caplog.text
    assert "unexpected keys" in caplog.text and "lm_head" not in caplog.text


def test_transformers_still_loads_as_it_did():
    """The two methods that are overridden; a new version that drops one of them shows here."""
    assert callable(Trainer.train) and callable(Trainer._issue_warnings_after_load)
