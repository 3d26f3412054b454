"""A member that is trained with others is the run of a Trainer with the same interventions, for every method of the study."""

import pytest
import torch
from transformers import TrainingArguments

from hf_radial import RadialTrainer
from hf_radial.callbacks.continual import ContinualCallback
from hf_radial.continual.sequence import train_sequence
from hf_radial.continual.stack import Options, Stack, initial_model
from hf_radial.continual.study import numbers
from hf_radial.interventions import add_interventions, configure
from hf_radial.models.vector_mlp import VectorMLPConfig
from hf_radial.tasks.image_sequence import ImageSequenceConfig, task_images
from hf_radial.tasks.tensor_rows import as_batch
from hf_radial.tasks.turns import TasksInTurn

TASKS, EPOCHS, BATCH, WIDTH = 3, 1, 20, 12
SEQUENCE = dict(tasks=TASKS, train_size=120, validation_size=60, test_size=70)
METHODS = {
    "adamw": dict(weight_decay=0.5),
    "radial": dict(radial_lambda=0.5),
    "radial_initial": dict(radial_lambda=0.5, radial_radius="initial"),
    "layer_norm": dict(normalization="layer_norm", weight_decay=0.1),
    "projection": dict(projection="tangential", weight_decay=0.1),
    "l2_init": dict(l2_init=0.01),
    "spectral_penalty": dict(spectral_penalty=0.05),
    "ewc": dict(ewc=50.0),
    "shrink_perturb": dict(shrink=0.3, noise=0.2),
    "redo": dict(redo_threshold=0.3, redo_every=4),
    "replay": dict(replay=5, kept=10),
}


def columns(config, split):
    parts = [task_images(config, split, task) for task in range(config.tasks)]
    return {
        "pixels": torch.cat([torch.from_numpy(pixels) for pixels, _ in parts]),
        "labels": torch.cat([torch.from_numpy(labels) for _, labels in parts]),
        "task": torch.cat([torch.full((len(labels),), i) for i, (_, labels) in enumerate(parts)]),
    }


def by_trainer(folder, seed, options, interventions=None):
    """The slow, obvious way: a Trainer and interventions by their texts."""
    config = ImageSequenceConfig(seed=seed, **SEQUENCE)
    train = TasksInTurn(
        columns(config, "train"), epochs=EPOCHS, batch_size=BATCH, seed=seed, replay=options.replay, kept=options.kept
    )
    texts = options.interventions() if interventions is None else interventions
    continual = ContinualCallback.of(train, columns(config, "test"), every=2)
    args = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        weight_decay=0.0,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    model = initial_model(configure(VectorMLPConfig(hidden_size=WIDTH), texts), seed)
    trainer = RadialTrainer(
        model=model, args=args, train_dataset=train, data_collator=as_batch, callbacks=[continual], radial_lambda=0.0
    )
    add_interventions(trainer, texts)
    trainer.train()
    return trainer, continual


def together(members, **options):
    """What `train_sequence` finds, and the stack that it trained."""
    stacks, original = [], Stack.__init__

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        stacks.append(self)

    given = dict(epochs=EPOCHS, batch_size=BATCH, hidden_size=WIDTH, split="test", full=True) | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stack, "__init__", remember)
        return train_sequence(ImageSequenceConfig(**SEQUENCE), members, **given), stacks[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_member_is_the_run_of_a_trainer(name, tmp_path):
    members = [(seed, Options(learning_rate=rate, **METHODS[name])) for seed, rate in ((3, 0.01), (4, 0.003))]
    found, stack = together(members)
    trainer, continual = by_trainer(tmp_path, *members[1])
    for key, value in trainer.model.state_dict().items():
        torch.testing.assert_close(stack.state_dict(1)[key], value, rtol=2e-4, atol=2e-5)
    assert abs(torch.tensor(found[1].accuracy) - torch.tensor(continual.accuracy)).nan_to_num().max() <= 1.01 / 70


def test_the_numbers_are_those_of_the_saved_predictions():
    found, _ = together([(3, Options(learning_rate=0.01)), (4, Options(learning_rate=0.01))], predictions=True)
    for seed, one in zip((3, 4), found, strict=True):
        config = ImageSequenceConfig(seed=seed, **SEQUENCE)
        for after in range(TASKS):
            for task in range(after + 1):
                right = one.predictions[after, task] == task_images(config, "test", task)[1]
                assert one.accuracy[after, task] == pytest.approx(right.mean())
        row = numbers(one, full=True)
        last = [(one.predictions[-1, task] == task_images(config, "test", task)[1]).mean() for task in range(TASKS)]
        assert row["retention"] == pytest.approx(sum(last[:-1]) / (TASKS - 1), abs=1e-4)
        assert row["kept_of_task"] == pytest.approx(last, abs=1e-4)


def test_members_differ_from_the_plain_run_by_their_method():
    """Otherwise the comparison with a Trainer could hold because both do nothing."""
    plain = together([(3, Options(learning_rate=0.01))], full=False)[1].state_dict(0)
    for options in METHODS.values():
        other = together([(3, Options(learning_rate=0.01, **options))], full=False)[1].state_dict(0)
        assert max(float((other[key] - plain[key]).abs().max()) for key in plain) > 1e-3
