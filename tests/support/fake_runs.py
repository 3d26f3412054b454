"""Folders that look like runs, for tests of what reads them. The numbers are made up by formulas; no model was trained."""

from __future__ import annotations

import json

import numpy as np

from hf_radial.geometry.reading import TABLE_FILE, Reading, Table
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC

SITES = [f"transformer.h.{i}.{part}.c_proj" for i in (0, 1) for part in ("attn", "mlp")]
GROUPS = ("radial", "spectrum", "drift", "function", "curvature", "fourier", "proposition")
KEY_FREQUENCIES = (5, 17, 33, 41)


def fake_run(
    folder,
    seed=0,
    radial_lambda=0.05,
    weight_decay=0.1,
    steps=20_000,
    onset=6_000,
    sites=SITES,
    groups=GROUPS,
    record=True,
    checkpoint=None,
    **facts,
):
    """Write a run into `folder` and return its log: fit near step 300, onset near `onset` (later with other seeds)."""
    draw = np.random.default_rng(seed)
    onset = onset * np.exp(0.15 * draw.standard_normal())
    log = [logs for step in evaluated_steps(steps) for logs in logs_at(step, onset, radial_lambda, draw, sites)]
    log.append({"step": steps, "epoch": steps / 19, "train_runtime": 731.4, "train_loss": 0.1})
    state = folder if checkpoint is None else folder / f"checkpoint-{checkpoint}"
    state.mkdir(parents=True, exist_ok=True)
    (state / "trainer_state.json").write_text(json.dumps({"global_step": steps, "log_history": log}, sort_keys=True))
    if record:
        (folder / "run.json").write_text(json.dumps(fake_record(folder, seed, radial_lambda, weight_decay, sites, facts)))
    if groups:
        table = Table()
        for step in [0, *evaluated_steps(steps)[::2]]:
            table.add(step, step / 19, readings_at(step, steps, onset, radial_lambda, draw, sites, groups))
        table.write(folder / TABLE_FILE)
    return log


def evaluated_steps(steps):
    return sorted({int(step) for step in np.geomspace(10, steps, 60)})


def rise(step, at, width=0.15):
    return float(1 / (1 + np.exp(-(np.log(max(step, 1)) - np.log(at)) / width)))


def logs_at(step, onset, radial_lambda, draw, sites):
    epoch = step / 19
    task = 4.6 * (1 - rise(step, 150, 0.4)) + 0.02 * (300 / (step + 300)) ** 0.8 * draw.uniform(0.8, 1.2)
    train = {"loss": task + radial_lambda * 0.3, "task_loss": task, "radial_lambda": radial_lambda, "learning_rate": 1e-3}
    train |= {f"radius/{site}": 4.0 for site in sites}
    held_out = min(0.01 + rise(step, 0.75 * onset) * draw.uniform(0.98, 1.0), 1.0)
    return [
        {"step": step, "epoch": epoch, **train},
        {"step": step, "epoch": epoch, TRAIN_METRIC: min(1.0, 1.001 * rise(step, 130)), "eval_train_loss": task},
        {
            "step": step,
            "epoch": epoch,
            HELD_OUT_METRIC: held_out,
            "eval_validation_loss": 4.6 + 3 * rise(step, 300) - 7 * held_out,
        },
    ]


def fake_record(folder, seed, radial_lambda, weight_decay, sites, facts):
    targets = [{"name": site, "width": 128, "target": 128**0.5} for site in sites]
    return {
        "trainer": "RadialTrainer",
        "radial": {"radial_lambda": radial_lambda, "variant": "paper" if radial_lambda else "none", "sites": targets},
        "facts": {"task": "modular", "config": "add_p97_f0.5_s0", **facts},
        "model": {"class": "GPT2LMHeadModel", "parameters": 401_280, "config": {"n_layer": 2}},
        "training_args": {
            "output_dir": str(folder),
            "seed": seed,
            "weight_decay": weight_decay,
            "learning_rate": 1e-3,
            "optim": "adamw_torch_fused",
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 256,
        },
        "processes": 1,
        "environment": {
            "versions": {"python": "3.11.7", "hf_radial": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            "revision": "0123abc",
            "machine": {"system": "Linux", "device": "a made-up machine"},
        },
    }


def readings_at(step, steps, onset, radial_lambda, draw, sites, groups):
    grokked, fitted = rise(step, 0.75 * onset), rise(step, 130)
    noise = lambda size=0.03: 1 + size * draw.standard_normal()  # noqa: E731
    found = []
    for place, site in enumerate(sites):
        if "radial" in groups:
            free = 2 + place + 25 * fitted * (step / steps) ** 0.4
            radius = (11.3 + (free - 11.3) * np.exp(-60 * radial_lambda * fitted)) * noise(0.01)
            for name, factor in (("q05", 0.8), ("q25", 0.92), ("q50", 1.0), ("q75", 1.09), ("q95", 1.25), ("mean", 1.01)):
                found.append(Reading(f"radius_{name}", radius * factor, site, samples=512))
            energy = (0.15 if radial_lambda else 0.8) + 0.6 * (1 - fitted) + 0.05 * place
            found += [
                Reading("radius_target", 128**0.5, site),
                Reading("radial_energy", energy * noise(0.1), site),
                Reading("radial_energy_total", (energy + 300 * radial_lambda * fitted) * noise(0.1), site),
                Reading("nonfinite", 0.0, site),
            ]
            if step:
                found += [
                    Reading("angular_speed", 0.5 * np.exp(-3 * rise(step, 900, 0.8)) * noise(0.1), site),
                    Reading("radial_speed", 0.4 * (1 - grokked) * noise(0.1) + 0.02, site),
                ]
        if "spectrum" in groups:
            found.append(Reading("effective_rank", (90 - 50 * grokked + 5 * place) * noise(), site, samples=512))
            found.append(Reading("stable_rank", (2 + 9 * grokked + place) * noise(), site, samples=512))
            found.append(Reading("sigma_max", (20 + 40 * fitted) * noise(), site))
            found += [Reading("singular_value", 40.0 / (i + 1), site, i) for i in range(8)]
        if "drift" in groups:
            found.append(Reading("cka_first", 1 - 0.6 * fitted - 0.3 * grokked, site))
            found.append(Reading("cka_previous", 1 - 0.2 * grokked * (1 - grokked) * 4, site))
            found.append(Reading("overlap_first", 1 - 0.7 * fitted - 0.2 * grokked, site))
        if "fourier" in groups and "mlp" in site:
            found += [
                Reading("neuron_frequency", float(KEY_FREQUENCIES[n % 4] if n % 9 else n % 48 + 1), site, n) for n in range(128)
            ]
            found += [
                Reading("neuron_selectivity", 0.2 + grokked * (0.75 if n % 9 else 0.2) * abs(noise(0.1)), site, n)
                for n in range(128)
            ]
            found.append(Reading("neuron_selectivity_mean", 0.2 + 0.7 * grokked, site))
        if "proposition" in groups:
            found.append(Reading("prop1_cosine", 0.5 + 0.4 * fitted, site))
            found.append(Reading("prop1_weight_decay_cosine", 0.3 + 0.1 * place, site))
    if "fourier" in groups:
        for part in ("embedding", "logits", *(site for site in sites if "mlp" in site)):
            power = draw.uniform(0.5, 1.5, 48)
            power[[k - 1 for k in KEY_FREQUENCIES]] += 40 * grokked * np.array([1.0, 0.7, 1.3, 0.5])
            found += [Reading("fourier_power", float(value), part, k) for k, value in enumerate(power, 1)]
            found.append(Reading("fourier_r2", 0.1 + 0.88 * grokked, part))
            found.append(Reading("fourier_largest", 1 + 4 * grokked, part))
        found.append(Reading("full_loss", 6 * (1 - grokked) + 1e-3))
        found.append(Reading("restricted_loss", 5 * (1 - rise(step, 0.6 * onset)) + 1e-3))
        found.append(Reading("excluded_loss", 5 - 4 * fitted * (1 - grokked)))
    if "function" in groups:
        for name, value in {
            "loss": 4.6 * (1 - fitted) + 1e-3,
            "held_out_loss": 4.6 + 3 * fitted - 7.5 * grokked,
            "logit_scale": 5 + 30 * fitted - 10 * grokked,
            "weight_norm": 40 + 25 * fitted - 30 * grokked,
            "confidence": 0.05 + 0.94 * fitted,
            "held_out_confidence": 0.05 + 0.6 * fitted + 0.3 * grokked,
            "saturated_softmax": 0.6 * fitted * (1 - radial_lambda * 10),
            "zero_loss": 0.4 * fitted * (1 - radial_lambda * 10),
        }.items():
            found.append(Reading(name, value * noise(0.01)))
    if "curvature" in groups:
        trace = 400 * (1 - rise(step, 200)) + 30 * (1 - grokked) + 1.5
        found.append(Reading("hessian_trace", trace * noise(0.05), standard_error=0.06 * trace, samples=30))
        found.append(Reading("hessian_trace_hutchinson", trace * noise(0.15), standard_error=0.15 * trace, samples=30))
        found.append(Reading("lambda_max", trace / 3 + 50, standard_error=0.5))
        found.append(Reading("two_over_lr", 2000.0))
        found.append(Reading("normalized_sharpness", 0.2 * (1 - grokked) + 0.004))
        found.append(Reading("sam_sharpness", 0.3 * (1 - grokked) + 0.01))
    return found
