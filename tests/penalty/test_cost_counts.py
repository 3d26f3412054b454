"""The penalty's cost in a training step, in counts that do not depend on the machine. Each has an upper bound.

A count is the difference between a step with the penalty and one without. It is split into a part per site and a constant part,
by a line through the counts of two model sizes. If a count falls below its bound, tighten the bound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import stack, tiny_gpt2, token_rows
from transformers import Trainer, set_seed

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.counts import Counts, Operations, count
from hf_radial import RadialArguments, RadialPenalty, RadialTrainer
from hf_radial.models.modular_mlp import ModularMLPConfig, ModularMLPForSequenceClassification
from hf_radial.penalty import functional
from hf_radial.tasks.tensor_rows import TensorRows, as_batch
from hf_radial.training.fast.resident_loader import known_samplers

LAMBDA, WIDTH, ROWS, LENGTH = 0.05, 32, 6, 9
VECTORS = ROWS * LENGTH

# Operations. At a site: the norm; backward, the gradient's scale (two on a number a vector) and one pass that multiplies the
# vectors by it and adds what comes from the model. The floor is two, if all sites' scales were computed together: for a few
# sites the Python that it takes costs more than it saves. At a step: what is done on the radii of all sites at once.
OPERATIONS_A_SITE = {"rows": 4, "padded rows": 4}
OPERATIONS_A_STEP = {"rows": 16, "padded rows": 25}
# Bytes kept for the backward pass beside the vectors themselves, which are the floor unless the model keeps them anyway. A
# gradient needs 4 bytes a vector more, its radius, and 1 for a mask.
BYTES_BESIDE_A_VECTOR = {"rows": 8, "padded rows": 9}
BYTES_BESIDE_A_SITE = 8
# From the allocator. The floor: the vectors' gradient, the radii, and a number or two.
ALLOCATIONS_A_SITE = {"rows": 4, "padded rows": 4}
# `RadialTrainer` beside `Trainer`, whose norm of gradients that is not logged it leaves out: that is why so few a step.
TRAINER_OPERATIONS_A_SITE, TRAINER_OPERATIONS_A_STEP = 4, 2
# Measuring alone, with radial_lambda=0: at a site the norm.
MEASURING_OPERATIONS_A_SITE, MEASURING_OPERATIONS_A_STEP = 1, -7


def counted(layers: int, radial_lambda: float | None, padded: bool) -> Counts:
    """One step of a plain loop, after a first one."""
    model, batch = tiny_gpt2(layers=layers, width=WIDTH).train(), stack(token_rows(ROWS, padded, LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    penalty = None if radial_lambda is None else RadialPenalty(model, radial_lambda).attach()

    def step() -> None:
        loss = model(**batch).loss
        if penalty is not None:
            loss = loss + penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return count(step, model.parameters())


def a_site_and_a_step(few: float, many: float, sites: tuple[int, int]) -> tuple[float, float]:
    """Slope and intercept of what so few and so many sites cost."""
    slope = (many - few) / (sites[1] - sites[0])
    return slope, few - slope * sites[0]


@pytest.fixture(scope="module")
def added() -> Iterator[dict[str, tuple[Counts, Counts]]]:
    """What the penalty adds to models of 2 and of 4 blocks, that is 4 and 8 sites, as if their vectors were many."""
    few, functional.FEW = functional.FEW, 0
    yield {
        name: tuple(counted(layers, LAMBDA, padded).minus(counted(layers, None, padded)) for layers in (2, 4))
        for name, padded in (("rows", False), ("padded rows", True))
    }  # type: ignore[misc]
    functional.FEW = few


BATCHES = ("rows", "padded rows")


@pytest.mark.parametrize("batch", BATCHES)
def test_operations_of_the_penalty(batch: str, added: Any) -> None:
    few, many = (sum(counts.operations.values()) for counts in added[batch])
    a_site, a_step = a_site_and_a_step(few, many, (4, 8))
    print(f"{batch}: {a_site} operations a site, {a_step} a step")
    assert a_site <= OPERATIONS_A_SITE[batch], added[batch][1].operations
    assert a_step <= OPERATIONS_A_STEP[batch], added[batch][1].operations


@pytest.mark.parametrize("batch", BATCHES)
def test_bytes_that_the_penalty_keeps_for_the_backward_pass(batch: str, added: Any) -> None:
    a_site, _ = a_site_and_a_step(*(counts.saved_bytes for counts in added[batch]), (4, 8))
    vectors = 4 * VECTORS * WIDTH
    print(f"{batch}: {a_site} bytes a site, the vectors being {vectors}")
    assert a_site <= vectors + BYTES_BESIDE_A_VECTOR[batch] * VECTORS + BYTES_BESIDE_A_SITE


@pytest.mark.parametrize("batch", BATCHES)
def test_allocations_of_the_penalty(batch: str, added: Any) -> None:
    a_site, _ = a_site_and_a_step(*(counts.allocations for counts in added[batch]), (4, 8))
    print(f"{batch}: {a_site} allocations a site")
    assert a_site <= ALLOCATIONS_A_SITE[batch]


@pytest.mark.parametrize("batch", BATCHES)
def test_the_penalty_never_waits_for_the_device(batch: str, added: Any) -> None:
    assert [counts.waits for counts in added[batch]] == [0, 0]


def steps_of(cls: type[Trainer], layers: int, folder: Path, **options: Any) -> Operations:
    """The operations of one step of a trainer: those of a run of 7 less those of a run of 3, a quarter of it each."""
    known_samplers()  # asked once a process, and not in every step
    both = []
    for steps in (3, 7):
        set_seed(0)
        config = ModularMLPConfig(modulus=7, embedding_size=4, hidden_size=8, num_hidden_layers=layers)
        columns = {"input_ids": torch.randint(7, (64, 2)), "labels": torch.randint(7, (64,))}
        args = RadialArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=8,  # 8 steps an epoch: both runs have one
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=True,
            optim="adamw_torch_fused",
            max_grad_norm=0.0,
        )
        trainer = cls(
            model=ModularMLPForSequenceClassification(config),
            args=args,
            train_dataset=TensorRows(columns),
            data_collator=as_batch,
            **options,
        )
        with Operations() as operations:
            trainer.train()
        both.append(operations)
    short, long = both
    difference = Operations()
    for name in long.count:
        times, rest = divmod(long.count[name] - short.count[name], 4)
        assert rest == 0, f"{name}: not the same in every step"
        difference.count[name] = times
    return difference


@pytest.mark.parametrize(
    ("radial_lambda", "most_a_site", "most_a_step"),
    [
        (LAMBDA, TRAINER_OPERATIONS_A_SITE, TRAINER_OPERATIONS_A_STEP),
        (0.0, MEASURING_OPERATIONS_A_SITE, MEASURING_OPERATIONS_A_STEP),
    ],
)
def test_operations_of_a_trainers_step(radial_lambda: float, most_a_site: int, most_a_step: int, tmp_path: Path) -> None:
    found = []
    for layers in (2, 4):
        ours = steps_of(RadialTrainer, layers, tmp_path, radial_lambda=radial_lambda)
        plain = steps_of(Trainer, layers, tmp_path)
        assert ours.waits() <= plain.waits()
        found.append(sum(ours.computing().values()) - sum(plain.computing().values()))
    a_site, a_step = a_site_and_a_step(*found, (2, 4))
    print(f"lambda {radial_lambda}: {a_site} operations a site, {a_step} a step")
    assert a_site <= most_a_site and a_step <= most_a_step


def test_what_is_counted() -> None:
    """The counts of an operation whose costs are known."""
    x = torch.ones(5, 7, requires_grad=True)

    def call() -> None:
        (x * 2).exp().sum().backward()
        x.grad = None

    call()
    found = count(call, [x])
    # Forward: product, exponential, sum. Backward: ones for the seed, two products; the sum's gradient is a view of the seed.
    assert found.operations == {"aten.mul": 3, "aten.exp": 1, "aten.sum": 1, "aten.ones_like": 1}
    assert found.saved_bytes == 4 * 35  # the exponential's result
    assert found.waits == 0 and found.allocations >= 5 and 2 * 4 * 35 <= found.peak_bytes <= 5 * 4 * 35
    with Operations() as operations:
        assert x.sum() > 0
    assert operations.waits() == 1
