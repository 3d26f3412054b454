"""A learning rate for the embeddings: one optimizer step by hand, schedules and weight decay."""

import torch
from intervention_runs import P, make, weights
from torch import nn

from hf_radial.interventions.embedding_rate import set_apart
from hf_radial.models.modular_mlp import ModularMLPConfig


def test_groups_apart_step_as_two_optimizers():
    torch.manual_seed(0)
    layers = [nn.Parameter(torch.randn(3)) for _ in range(3)]
    copies = [nn.Parameter(layer.detach().clone()) for layer in layers]
    optimizer = torch.optim.AdamW(
        [{"params": layers[:2]}, {"params": layers[2:], "weight_decay": 0.0}], lr=0.1, weight_decay=0.5
    )
    set_apart(optimizer, [layers[0]], ratio=3.0, weight_decay=0.2)
    by_hand = [
        torch.optim.AdamW([copies[0]], lr=0.1 * 3.0, weight_decay=0.2),
        torch.optim.AdamW([copies[1]], lr=0.1, weight_decay=0.5),
        torch.optim.AdamW([copies[2]], lr=0.1, weight_decay=0.0),
    ]
    for step in range(3):
        for layer, copy in zip(layers, copies, strict=True):
            layer.grad = torch.full((3,), 1.0 + step)
            copy.grad = layer.grad.clone()
        optimizer.step()
        for one in by_hand:
            one.step()
    assert all(torch.equal(layer, copy) for layer, copy in zip(layers, copies, strict=True))


def test_a_ratio_holds_through_a_schedule_and_moves_embeddings_alone_in_the_first_step(tmp_path):
    config = ModularMLPConfig(modulus=P, embedding_size=4, hidden_size=8)
    options = {"max_steps": 1, "weight_decay": 0.0}
    plain = weights(make(tmp_path / "a", config=config, max_steps=1, weight_decay=0.0))
    moved = []
    for given in ([], ["embedding_rate:ratio=3"]):
        trainer = make(tmp_path / "b", given, config=config, **options)
        trainer.train()
        moved.append({name: value - plain[name] for name, value in weights(trainer).items()})
    without, with_it = moved
    for name in plain:
        ratio = 3.0 if name == "embedding.weight" else 1.0
        torch.testing.assert_close(with_it[name], ratio * without[name], rtol=1e-3, atol=1e-6)

    trainer = make(tmp_path / "c", ["embedding_rate:ratio=3"], config=config, lr_scheduler_type="linear", warmup_steps=2)
    trainer.train()
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    bases = sorted({group["initial_lr"] for group in trainer.optimizer.param_groups})
    assert bases == [0.01, 0.03] and len(rates) <= 2
