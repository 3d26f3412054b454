"""Titles, axes and captions of the figures that are drawn alike: lines of sites, of the model, and of groups of runs."""

from __future__ import annotations

# One metric of every site, in one panel: metric, title, axis, line to compare with (height, name), caption.
SITE_LINES: dict[str, tuple[str, str, tuple[float, str] | None, str]] = {
    "radial_energy": (
        "Radial energy of the task loss",
        "radial energy (isotropic = 1)",
        (1.0, "isotropic: 1"),
        "How much of the task's gradient points along the hidden vectors, to or from the origin. A gradient in random "
        "directions gives 1; one that only lengthens or shortens them gives their width. Even well above 1, most of it may "
        "still turn them.",
    ),
    "radial_energy_total": (
        "Radial energy with the penalty",
        "radial energy (isotropic = 1)",
        (1.0, "isotropic: 1"),
        "The same for the whole gradient, with the penalty's own part. That part is purely radial. The "
        "penalty causes every difference from the figure of the task loss.",
    ),
    "effective_rank": (
        "Effective rank",
        "effective rank (directions)",
        None,
        "How many directions the hidden vectors really use, counted by the entropy of their singular values. It is at most "
        "the smaller of the width and the number of vectors measured; look for a jump or a fall near the onset.",
    ),
    "stable_rank": (
        "Stable rank",
        "stable rank (directions)",
        None,
        "A stricter count of directions, in which only those nearly as strong as the strongest count. A value near 1 means "
        "that one direction dominates all others.",
    ),
    "sigma_max": (
        "Largest singular value",
        "largest singular value",
        None,
        "The strength of the strongest direction of the hidden vectors. Look whether it goes on growing after the training "
        "data is fitted.",
    ),
    "angular_speed": (
        "Angular speed",
        "mean turn since last measured (rad)",
        None,
        "By what angle the hidden vector of the same input turned since the measurement before. It falls when "
        "representations settle; a second rise after the fit is a reorganisation.",
    ),
    "radial_speed": (
        "Radial speed",
        "mean |change of radius|",
        None,
        "How much longer or shorter the hidden vector of the same input became since the measurement before. Beside the "
        "angular speed it shows whether a model grows or turns.",
    ),
    "cka_first": (
        "Similarity to the first measurement",
        "CKA with the first (1 = same)",
        None,
        "Whether the geometry of the representation is still that of the first measurement, by CKA, which does not mind "
        "rotations. A fall long after the fit means that the inside changes although training accuracy does not.",
    ),
    "cka_previous": (
        "Similarity to the measurement before",
        "CKA with the one before (1 = same)",
        None,
        "How much the geometry changed from one measurement to the next, by CKA. Dips are moments of quick change.",
    ),
    "cka_last": (
        "Similarity to the end",
        "CKA with the last (1 = same)",
        None,
        "When the final geometry was found, by CKA, from the few measurements that are kept for it: it is 1 at the end by "
        "definition. Look whether it rises with training accuracy or with held-out accuracy.",
    ),
    "overlap_first": (
        "Subspace shared with the first measurement",
        "overlap with the first (1 = same)",
        None,
        "What part of the main directions is still those of the first measurement; 1 is all of them, 0 is none.",
    ),
    "overlap_previous": (
        "Subspace shared with the measurement before",
        "overlap with the one before (1 = same)",
        None,
        "What part of the main directions stayed from one measurement to the next; dips are moments of reorganisation.",
    ),
    "overlap_last": (
        "Subspace shared with the end",
        "overlap with the last (1 = same)",
        None,
        "When the final main directions were found, from the few measurements that are kept for it; it is 1 at the end by "
        "definition.",
    ),
    "fourier_r2": (
        "How periodic: Fourier R²",
        "R² of few frequencies (fraction)",
        (0.9, "0.9"),
        "How much of the numbers is explained by a few frequencies. Models that learn modular addition by its algorithm "
        "rise to near 1; look whether that comes before, at or after the onset.",
    ),
    "fourier_largest": (
        "Largest Fourier component",
        "largest magnitude",
        None,
        "The strength of the strongest single frequency. It grows as the model commits itself to some frequencies.",
    ),
    "neuron_selectivity_mean": (
        "Mean selectivity of neurons",
        "selectivity (fraction of power)",
        None,
        "How much of a neuron's activity has one frequency, on average over the neurons of a site. It rises when neurons "
        "specialise.",
    ),
    "prop1_cosine": (
        "Proposition 1: direction of the penalty's pull",
        "cosine (1 = as predicted)",
        (1.0, "as predicted"),
        "Whether the penalty's gradient on the weights points where the theory says, along W times the inputs' covariance; "
        "without a penalty, whether it would. The theory is for radii far above the target. Where they are below it, the "
        "penalty lengthens vectors, and the sign turns.",
    ),
    "prop1_weight_decay_cosine": (
        "Proposition 1: against weight decay",
        "cosine with weight decay",
        None,
        "The same gradient compared with weight decay's, which pulls evenly at all weights. The further it is from 1, the less "
        "the penalty is a weight decay under another name. Below 0 it works against weight decay.",
    ),
    "nonfinite": (
        "Vectors that are not finite",
        "fraction of vectors",
        (0.0, "none"),
        "The fraction of hidden vectors with a NaN or an infinity in them; anything above 0 is a fault of the run.",
    ),
}


# Several metrics of the model as a whole, in one panel: name, title, axis, metric -> label, caption.
MODEL_LINES: list[tuple[str, str, str, dict[str, str], str]] = [
    (
        "sharpness",
        "Sharpness",
        "sharpness (nats)",
        {"normalized_sharpness": "normalised: lambda_max ||w||²", "sam_sharpness": "SAM: rise of the loss"},
        "Two measures of how steep the loss is around the weights w. Normalised does not change when weights and curvature are "
        "merely rescaled; SAM is how much the loss rises in one small step of fixed length uphill.",
    ),
    (
        "fourier_losses",
        "Restricted and excluded loss",
        "loss (nats)",
        {"full_loss": "full, all rows", "restricted_loss": "restricted, all rows", "excluded_loss": "excluded, training rows"},
        "The loss if the logits keep only their main frequencies (restricted), and if they lose just these (excluded). "
        "When excluded rises and restricted falls, the periodic algorithm takes over from memory.",
    ),
    (
        "probe_loss",
        "Loss on the probes",
        "loss (nats)",
        {"loss": "training probe", "held_out_loss": "held-out probe"},
        "The loss on the fixed training and held-out rows on which geometry is measured. A gap that opens is memorisation; "
        "one that closes is generalisation.",
    ),
    (
        "confidence",
        "Confidence",
        "mean probability of the top answer",
        {"confidence": "training probe", "held_out_confidence": "held-out probe"},
        "How sure the model is of its answers, right or wrong. High on held-out rows while accuracy there is low means that "
        "it is confidently wrong.",
    ),
    (
        "softmax_collapse",
        "Softmax collapse",
        "fraction of rows",
        {"saturated_softmax": "softmax saturated", "zero_loss": "loss exactly 0"},
        "Rows for which the softmax is so sure that floating point rounds it to certainty. Such rows give no gradient: near "
        "1 learning from them has stopped, which can keep a model from ever generalising.",
    ),
    (
        "logit_scale",
        "Scale of the logits",
        "norm of the logits",
        {"logit_scale": "logit scale"},
        "How large the model's outputs are. Growth after the fit makes the loss smaller without any new knowledge.",
    ),
]


# One metric of the model as a whole, a line per group of runs: title, axis, caption.
COMPARED = {
    "weight_norm": (
        "Weight norm",
        "L2 norm of all weights",
        "The length of all weights as one vector. Look whether runs that generalise early are those with small weights.",
    ),
    "logit_scale": (
        "Scale of the logits",
        "norm of the logits",
        "How large the outputs are. Growth after the fit makes the training loss smaller without any new knowledge.",
    ),
    "hessian_trace": (
        "Hessian trace",
        "trace (nats per squared weight)",
        "The curvature of the training loss, summed over all directions. It also falls as that loss nears 0: compare "
        "runs at the same loss before calling a minimum flat.",
    ),
    "lambda_max": (
        "Largest curvature",
        "lambda_max (nats per squared weight)",
        "The curvature in the steepest direction; what holds for the trace holds for it, too.",
    ),
    "held_out_loss": (
        "Held-out loss of the probe",
        "loss (nats)",
        "The loss on the held-out rows on which geometry is measured. It rises while a model memorises and "
        "falls when it generalises.",
    ),
}
