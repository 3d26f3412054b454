"""The figures of a report: each takes a run, or groups of runs, and gives a `Drawing`, or `None` if nothing of it was measured.

A `Drawing` knows what it shows in words and draws itself in light or dark colours. Every figure is one idea, small enough to be
read on a phone. Nothing here reads files or knows of HTML. Needs matplotlib (`pip install hf_radial[plots]`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from hf_radial.report.plots import COLOURS
from hf_radial.runs.files import Floats, Group, Run, Series, band, short_names
from hf_radial.runs.onset import HELD_OUT_METRIC, TRAIN_METRIC, check_metrics, fit_step, onset_step

WIDTH, HEIGHT = 4.8, 3.3  # inches; with text of 10.5 points still legible at the width of a phone
DPI = 160  # of 4.8 inches: enough for the sharpest screens at the width that a page gives a figure
COLOURS_OF_A_PNG = 96
POINTS = 2000  # more than a figure has pixels
LEGEND_SITES = 6  # as many as there are colours; more sites are coloured by their place in the model
PANELS = 8  # sites in one figure of small panels
# Words in the names of axes on which values lie between 0 and 1, where a logarithm would only enlarge what is nearly 0.
BOUNDED = ("fraction", "probability", "= same", "cosine")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. `colours` are Okabe and Ito's, told apart by readers with any common colour blindness."""

    name: str
    background: str
    ink: str
    grid: str
    colours: tuple[str, ...]
    sequential: str  # a colour map without hues to confuse, and with no end that vanishes in the background

    @property
    def rc(self) -> Any:
        """The theme as matplotlib's settings."""
        painted = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
        return {
            **dict.fromkeys(painted, self.ink),
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), self.background),
            "grid.color": self.grid,
            "grid.linewidth": 0.6,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.formatter.useoffset": False,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10.5,
            "axes.titlesize": 10,
            "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "text.parse_math": False,  # names of modules and runs are no formulas
            "svg.hashsalt": "hf_radial",  # the same figure gives the same file
            "svg.fonttype": "path",
        }


LIGHT = Theme("light", "#ffffff", "#1b1b1f", "#dcdce0", (*COLOURS[:4], "#B37700", "#3A9BD0"), "viridis")
DARK = Theme(
    "dark", "#17181c", "#e8e8ea", "#3a3b42", ("#56B4E9", "#FF8A3D", "#2CC79A", "#E29BC4", "#F0E442", "#BBBBBB"), "viridis"
)
THEMES = (LIGHT, DARK)


@dataclass(frozen=True)
class Drawing:
    """One figure: a name for files, what it is and what to look for in words, and a function that draws it."""

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Theme], Any]

    def render(self, theme: Theme = LIGHT, kind: str = "png", titled: bool = False) -> bytes:
        """The figure as a PNG of few colours, or as SVG.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: `kind` is another.
        """
        if kind not in ("png", "svg"):
            raise ValueError(f"figures are made as 'png' or 'svg', not {kind!r}")
        try:
            from matplotlib import rc_context
        except ImportError as error:
            raise ImportError("a report needs matplotlib: pip install 'hf_radial[plots]'") from error
        from PIL import Image

        raw = io.BytesIO()
        with rc_context(theme.rc):  # ticks take their colours from it only when they are drawn
            figure = self.draw(theme)
            if titled:
                figure.suptitle(self.title)
            metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
            figure.savefig(raw, format=kind, dpi=DPI, metadata=metadata)
        if kind == "svg":
            return raw.getvalue()
        small = io.BytesIO()
        image = Image.open(raw).convert("RGB")
        image.quantize(COLOURS_OF_A_PNG, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        return small.getvalue()


# One metric of every site, in one panel: metric, title, axis, line to compare with (height, name), caption.
SITE_LINES: dict[str, tuple[str, str, tuple[float, str] | None, str]] = {
    "radial_energy": (
        "Radial energy of the task loss",
        "radial energy (isotropic = 1)",
        (1.0, "isotropic: 1"),
        "How much of the task's gradient points along the hidden vectors, to or from the origin. A gradient in random "
        "directions gives 1; one that only lengthens or shortens them gives their width, so that even well above 1 most of it "
        "may still turn them.",
    ),
    "radial_energy_total": (
        "Radial energy with the penalty",
        "radial energy (isotropic = 1)",
        (1.0, "isotropic: 1"),
        "The same for the whole gradient, with the penalty's own part. That part is purely radial; what "
        "differs from the figure of the task loss is the penalty's doing.",
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
        "How much of a neuron's activity is of one frequency, on average over the neurons of a site. It rises when neurons "
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
        "The same gradient compared with weight decay's, which pulls evenly at all weights. The further from 1, the less is "
        "the penalty a weight decay under another name; below 0 it works against it.",
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


def figures_of(
    run: Run, train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> list[tuple[str, list[Drawing]]]:
    """All figures that a run has data for, by section."""
    models = {name: model_lines(run, *spec) for spec in MODEL_LINES for name in [spec[0]]}
    sections: list[tuple[str, list[Drawing | None]]] = [
        ("Accuracy and loss", [accuracy(run, train_metric, held_out_metric), loss(run), models["probe_loss"]]),
        ("Radius of the hidden vectors", [*radii(run), *(site_lines(run, name) for name in ("radial_speed", "nonfinite"))]),
        ("Directions of gradients and vectors", _named(run, "radial_energy", "radial_energy_total", "angular_speed")),
        ("Rank", _named(run, "effective_rank", "stable_rank", "sigma_max")),
        ("Drift of representations", _named(run, *(n for n in SITE_LINES if n.startswith(("cka_", "overlap_"))))),
        ("Curvature", [hessian_trace(run), lambda_max(run), models["sharpness"]]),
        (
            "Frequencies",
            [
                *frequencies(run),
                *_named(run, "fourier_r2", "fourier_largest"),
                models["fourier_losses"],
                *neurons(run),
                *_named(run, "neuron_selectivity_mean"),
            ],
        ),
        (
            "Outputs and weights",
            [weight_norm(run), *(models[name] for name in ("logit_scale", "softmax_collapse", "confidence"))],
        ),
        ("The penalty's pull on the weights", _named(run, "prop1_cosine", "prop1_weight_decay_cosine")),
    ]
    kept = [(title, [drawing for drawing in drawings if drawing is not None]) for title, drawings in sections]
    return [(title, drawings) for title, drawings in kept if drawings]


def comparisons(
    groups: Sequence[Group], train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> list[Drawing]:
    """Figures with all groups of runs over each other: a line is a group's median, its band the smallest to the largest."""
    found = [compare_accuracy(groups, train_metric, held_out_metric), compare_loss(groups)]
    found += [_compare(groups, metric, *spec) for metric, spec in COMPARED.items()]
    medians = any(run.sites("radius_q50") for group in groups for run in group.runs)
    for metric in ("radius_q50" if medians else "radius_mean", "radial_energy", "effective_rank", "fourier_r2"):
        found += _compare_sites(groups, metric)
    return [drawing for drawing in found if drawing is not None]


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


def accuracy(run: Run, train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC) -> Drawing | None:
    """Training and held-out accuracy with the fit, the onset and what lies between; epochs as a second axis."""
    train, held_out = run.logged(train_metric), run.logged(held_out_metric)
    if not len(train.steps) and not len(held_out.steps):
        return None
    fit = fit_step(run.log, train_metric) if len(train.steps) else None
    onset = onset_step(run.log, held_out_metric) if len(held_out.steps) else None
    epochs = _epochs_per_step(run)

    def draw(theme: Theme) -> Any:
        figure, axes = _canvas(HEIGHT + 0.7)
        if len(train.steps):
            _line(axes, train, color=theme.colours[1], ls="--", label="training accuracy")
        if len(held_out.steps):
            _line(axes, held_out, color=theme.colours[0], label="held-out accuracy")
        if fit is not None:
            axes.axvline(fit, color=theme.colours[1], ls=":", lw=1.4, label=f"fit: step {fit:,}")
        if onset is not None:
            axes.axvline(onset, color=theme.colours[0], ls="-.", lw=1.2, label=f"onset (90 %): step {onset:,}")
        if fit is not None and onset is not None and onset > fit:
            axes.axvspan(fit, onset, color=theme.ink, alpha=0.12, lw=0, label=f"delay: {onset - fit:,} steps")
        axes.set(ylabel="accuracy (fraction)", ylim=(-0.03, 1.03))
        _step_axis(axes, [train, held_out], epochs)
        _legend(figure, axes)
        return figure

    grokked = fit is not None and onset is not None and onset > fit
    caption = "Training accuracy (dashed) and accuracy on rows never trained on (solid), on a logarithmic step axis. " + (
        "Grokking is the shaded gap: the training data is fitted, and only later does the rest follow."
        if grokked
        else "Grokking would be a gap between the two rises; within this log there is none from fit to onset."
    )
    told = [f"fit at step {fit:,}" if fit is not None else "no fit"]
    told += [f"onset at step {onset:,}" if onset is not None else "no onset"]
    return Drawing(
        "accuracy",
        "Accuracy: fit, onset and the delay between them",
        caption,
        f"Line chart of accuracy against step: {', '.join(told)}. {_ends({'training': train, 'held-out': held_out})}",
        draw,
    )


def loss(run: Run) -> Drawing | None:
    """Every loss of the log on logarithmic axes."""
    lines = _losses(run)
    return _lines_drawing(
        lines,
        "loss",
        "Loss",
        "loss (nats)",
        "The losses of the log: of training batches, averaged since the log before, and of whole sets where evaluated. Both "
        "axes are logarithmic. While a model memorises, held-out loss rises as training loss falls.",
        log=True,
    )


def radii(run: Run) -> list[Drawing | None]:
    """Per site a panel with the median radius, the range of most vectors, and the target."""
    metric = next((name for name in ("radius_q50", "radius_mean") if run.sites(name)), None)
    if metric is None:
        return []
    names = short_names(run.sites(metric))
    middle = "median" if metric == "radius_q50" else "mean"
    bands = metric == "radius_q50" and bool(run.sites("radius_q05"))

    def panels(sites: Sequence[str], number: str) -> Drawing:
        def panel(axes: Any, site: str, theme: Theme) -> None:
            low, high = run.series("radius_q05", site), run.series("radius_q95", site)
            if bands and len(low.steps) and len(high.steps):
                fill = {"color": theme.colours[0], "alpha": 0.25, "lw": 0, "label": "5 to 95 % of vectors"}
                axes.fill_between(low.steps, low.values, np.interp(low.steps, high.steps, high.values), **fill)
            _line(axes, run.series(metric, site), color=theme.colours[0], label=f"{middle} radius")
            target = run.series("radius_target", site)
            if np.isfinite(target.values).any():
                _line(axes, target, color=theme.colours[1], ls="--", lw=1.3, label="target")

        every = {names[site]: run.series(metric, site) for site in sites}
        return Drawing(
            f"radius{number.replace(' ', '_')}",
            f"Radius per site{number}",
            f"The length of the hidden vectors at each site: {middle}"
            + (" and where 90 % of them lie" if bands else "")
            + ". A penalty pulls it to the target (dashed), which is a mark to compare with in a run without one. Watch "
            "whether it goes on growing after the fit.",
            f"{len(sites)} panels of {middle} radius against step. {_ends(every)}",
            lambda theme: _panels(sites, names, panel, theme, "radius ||h||", list(every.values())),
        )

    return [panels(sites, number) for sites, number in _pages(list(names))]


def site_lines(run: Run, metric: str) -> Drawing | None:
    """One metric of `SITE_LINES`, a line per site."""
    title, label, compare, caption = SITE_LINES[metric]
    sites = run.sites(metric)
    names = short_names(sites)
    lines = {names[site]: run.series(metric, site) for site in sites}
    if metric == "nonfinite" and not any((line.values > 0).any() for line in lines.values()):
        return None  # as it should be, so that there is nothing to see
    if metric == "radial_energy_total" and all(_same(run.series(metric, s), run.series("radial_energy", s)) for s in sites):
        return None  # a run without a penalty: its gradient is the task's
    return _lines_drawing(lines, metric, title, label, caption, compare=compare)


def model_lines(run: Run, name: str, title: str, label: str, metrics: dict[str, str], caption: str) -> Drawing | None:
    """Metrics of the model as a whole, a line each."""
    return _lines_drawing({text: run.series(metric) for metric, text in metrics.items()}, name, title, label, caption)


def weight_norm(run: Run) -> Drawing | None:
    """The norm of all weights, and of each module if they were measured."""
    sites = run.sites("weight_norm")
    names = short_names(sites)
    lines = {"all weights": run.series("weight_norm"), **{names[site]: run.series("weight_norm", site) for site in sites}}
    caption = (
        "The length of the weights as one vector, which weight decay makes smaller. Look whether it still grows after the "
        "fit, and whether a fall comes before the onset."
    )
    return _lines_drawing(lines, "weight_norm", "Weight norm", "L2 norm of weights", caption)


def hessian_trace(run: Run) -> Drawing | None:
    """The trace of the Hessian with twice its standard error."""
    lines = {"Hutch++": run.series("hessian_trace"), "Hutchinson": run.series("hessian_trace_hutchinson")}
    caption = (
        "The sum of the curvatures of the loss in all directions; the band is twice the standard error of the estimate. It "
        "also falls as the training loss nears 0, so that a small trace alone is no sign of generalisation."
    )
    label = "trace (nats per squared weight)"
    return _lines_drawing(lines, "hessian_trace", "Hessian trace", label, caption, errors=2.0)


def lambda_max(run: Run) -> Drawing | None:
    """The largest eigenvalue of the Hessian against the edge of stability."""
    lines = {"lambda_max": run.series("lambda_max")}
    if len(lines["lambda_max"].steps):
        lines["2 / learning rate"] = run.series("two_over_lr")
    caption = (
        "The curvature in the steepest direction against 2 / learning rate, above which plain gradient descent would become "
        "unstable; for Adam and the like the limit is another. The band bounds the error of the estimate."
    )
    label = "curvature (nats per squared weight)"
    return _lines_drawing(lines, "lambda_max", "Largest curvature and the edge of stability", label, caption, errors=1.0)


def frequencies(run: Run) -> list[Drawing | None]:
    """Heat maps, frequency by time, of the share of power: embedding and logits by themselves, sites in small panels."""
    found = [site for site in run.sites("fourier_power") if np.isfinite(run.indexed("fourier_power", site)[2]).any()]
    alone = [site for site in ("embedding", "logits") if site in found]
    sites = [site for site in found if site not in alone]
    names = short_names(sites) | dict(zip(alone, alone, strict=True))
    pages: list[tuple[list[str], str]] = [([site], f" of the {site}") for site in alone]
    pages += [(part, f" per site{number}") for part, number in _pages(sites)]

    def page(sites: Sequence[str], of: str) -> Drawing:
        def panel(axes: Any, site: str, theme: Theme) -> None:
            steps, index, power = run.indexed("fourier_power", site)
            with np.errstate(invalid="ignore", divide="ignore"):
                share = power / np.nansum(power, 1, keepdims=True)
            panel.image = axes.pcolormesh(  # type: ignore[attr-defined]
                _edges(steps), _edges(index), share.T, cmap=theme.sequential, vmin=0, vmax=top, rasterized=True
            )
            axes.grid(False)

        shares = [run.indexed("fourier_power", site) for site in sites]
        with np.errstate(invalid="ignore", divide="ignore"):
            top = max(float(np.nanmax(power / np.nansum(power, 1, keepdims=True), initial=0)) for _, _, power in shares) or 1.0

        def draw(theme: Theme) -> Any:
            series = [Series(steps, steps, steps) for steps, _, _ in shares]
            figure = _panels(sites, names, panel, theme, "frequency (cycles per p)", series, legend=False)
            bar = figure.colorbar(panel.image, ax=figure.axes, location="bottom", aspect=40, pad=0.02)  # type: ignore
            bar.set_label("share of the power (fraction)")
            bar.outline.set_visible(False)
            return figure

        strongest = []
        for site, (_, index, power) in zip(sites, shares, strict=True):
            order = np.argsort(-np.nan_to_num(power[-1]))[:5]
            strongest.append(f"{names[site]}: {', '.join(f'{index[i]:.0f}' for i in sorted(order))}")
        return Drawing(
            "frequencies" + of.replace(" of the ", "_").replace(" per site", "_sites").replace(" ", "_"),
            f"How frequencies assemble: share of power{of}",
            "Each row is a frequency, time runs to the right, and bright means that much of the power is there. An even field "
            "that turns into a few bright rows is the periodic algorithm being built. Every figure has a scale of its own.",
            f"Heat map of frequency against step. Strongest at the end, {'; '.join(strongest)}.",
            draw,
        )

    return [page(sites, of) for sites, of in pages]


def neurons(run: Run) -> list[Drawing | None]:
    """Per site the neurons' selectivity at the last measurement, sorted into blocks by frequency."""
    sites = [site for site in run.sites("neuron_selectivity") if site in run.sites("neuron_frequency")]
    names = short_names(sites)

    def last(metric: str, site: str) -> tuple[float, Floats]:
        steps, _, values = run.indexed(metric, site)
        return steps[-1], values[-1]

    def one(site: str) -> Drawing | None:
        step, selectivity = last("neuron_selectivity", site)
        frequency = last("neuron_frequency", site)[1]
        if len(selectivity) != len(frequency):
            return None
        finite = np.isfinite(selectivity) & np.isfinite(frequency)
        selectivity, frequency = selectivity[finite], frequency[finite]
        if not len(selectivity):
            return None
        order = np.lexsort((-selectivity, frequency))
        selectivity, frequency = selectivity[order], frequency[order]
        kinds, start, counts = np.unique(frequency, return_index=True, return_counts=True)

        def draw(theme: Theme) -> Any:
            figure, axes = _canvas()
            hatches = ("", "///")  # neighbours differ in more than colour
            for i, (kind, first, count) in enumerate(zip(kinds, start, counts, strict=True)):
                places, heights = np.arange(first, first + count + 1), selectivity[first : first + count]
                fill = {"step": "post", "color": theme.colours[i % 2], "lw": 0, "alpha": 0.85, "rasterized": True}
                axes.fill_between(
                    places, np.append(heights, heights[-1]), **fill, hatch=hatches[i % 2], edgecolor=theme.background
                )
                if count >= 0.045 * len(frequency):
                    axes.text(first + count / 2, 1.03, f"{kind:.0f}", ha="center", va="bottom", fontsize=9)
            axes.set(xlim=(0, len(frequency)), ylim=(0, 1.0), ylabel="selectivity (fraction of power)")
            axes.set_xlabel("neuron, sorted by its frequency (above)")
            axes.grid(axis="x", visible=False)
            return figure

        largest = sorted(zip(counts, kinds, strict=True), reverse=True)[:5]
        blocks = ", ".join(f"{count} of frequency {kind:.0f}" for count, kind in largest)
        named = f" of {names[site]}" if len(sites) > 1 else ""
        return Drawing(
            f"neurons_{names[site]}".replace(".", "_"),
            f"Selectivity of neurons{named}, step {step:,.0f}",
            "Every neuron's preferred frequency (numbers above the broad blocks) and how purely it answers to it. A model "
            "that has found the periodic algorithm has a few broad, high blocks; a memorising one has low, ragged ones.",
            f"{len(frequency)} neurons in {len(kinds)} blocks by frequency. Largest blocks: {blocks}. "
            f"Mean selectivity {selectivity.mean():.2f}.",
            draw,
        )

    return [one(site) for site in sites]


def compare_accuracy(
    groups: Sequence[Group], train_metric: str = TRAIN_METRIC, held_out_metric: str = HELD_OUT_METRIC
) -> Drawing | None:
    """Held-out accuracy of groups of runs, training accuracy thin beneath, and every run's onset."""
    drawing = _overlay(
        groups,
        lambda run: run.logged(held_out_metric),
        "compare_accuracy",
        "Held-out accuracy of all runs",
        "accuracy (fraction)",
        "Thin pale lines are training accuracy, and a triangle is one run's onset: how far it is from the rise of the thin "
        "line of its colour is the delay.",
        thin=lambda run: run.logged(train_metric),
        marks=lambda run: _onset(run, held_out_metric),
        ylim=(-0.03, 1.03),
    )
    return drawing


def compare_loss(groups: Sequence[Group]) -> Drawing | None:
    """The training loss of groups of runs: of the task alone where the log has it."""
    caption = "The loss of training batches, of the task alone where the log has it; both axes are logarithmic."

    def task_loss(run: Run) -> Series:
        alone = run.logged("task_loss")
        return alone if len(alone.steps) else run.logged("loss")

    return _overlay(groups, task_loss, "compare_loss", "Training loss of all runs", "loss (nats)", caption, log=True)


def _lines_are(groups: Sequence[Group]) -> str:
    """What a line is: of seeds, or of one run."""
    if any(len(group.runs) > 1 for group in groups):
        return "A line is the median of runs that differ only in their seed, its band the smallest to the largest of them."
    return "A line is one run."


def _compare(groups: Sequence[Group], metric: str, title: str, label: str, caption: str) -> Drawing | None:
    return _overlay(groups, lambda run: run.series(metric), f"compare_{metric}", f"{title} of all runs", label, caption)


def _compare_sites(groups: Sequence[Group], metric: str) -> list[Drawing | None]:
    title, label, compare, caption = SITE_LINES.get(metric) or (
        f"{'Median' if metric == 'radius_q50' else 'Mean'} radius",
        "radius ||h||",
        None,
        "The length of the hidden vectors. Look whether it goes on growing after the fit, and where a penalty holds it.",
    )
    sites = list(dict.fromkeys(site for group in groups for run in group.runs for site in run.sites(metric)))
    names = short_names(sites)
    if sum(any(run.sites(metric) for run in group.runs) for group in groups) < 2 and len(groups) > 1:
        return []

    def page(sites: Sequence[str], number: str) -> Drawing:
        def panel(axes: Any, site: str, theme: Theme) -> None:
            for group, style in zip(groups, _styles(theme), strict=False):
                _draw_group(axes, group, partial(Run.series, metric=metric, site=site), style)
            if compare is not None:
                axes.axhline(compare[0], color=theme.ink, lw=1, ls=(0, (2, 2)), label=compare[1])

        every = [run.series(metric, site) for site in sites for group in groups for run in group.runs]
        lines = {
            f"{group.label}, {names[site]}": _median(group, partial(Run.series, metric=metric, site=site))
            for site in sites
            for group in groups
        }
        return Drawing(
            f"compare_{metric}{number.replace(' ', '_')}",
            f"{title} of all runs, per site{number}",
            f"{caption} {_lines_are(groups)} Each panel is one site.",
            f"{len(sites)} panels of {label} against step. {_ends(lines)}",
            lambda theme: _panels(sites, names, panel, theme, label, every),
        )

    return [page(sites, number) for sites, number in _pages(sites)]


def _overlay(
    groups: Sequence[Group],
    get: Callable[[Run], Series],
    name: str,
    title: str,
    label: str,
    caption: str,
    thin: Callable[[Run], Series] | None = None,
    marks: Callable[[Run], int | None] | None = None,
    log: bool = False,
    ylim: tuple[float, float] | None = None,
) -> Drawing | None:
    every = [get(run) for group in groups for run in group.runs]
    if not any(len(series.steps) for series in every):
        return None

    def draw(theme: Theme) -> Any:
        figure, axes = _canvas(HEIGHT + 0.22 * min(len(groups), 12))
        for group, style in zip(groups, _styles(theme), strict=False):
            if thin is not None:
                for run in group.runs:
                    _line(axes, thin(run), color=style["color"], lw=0.9, alpha=0.5)
            _draw_group(axes, group, get, style)
            for run in group.runs if marks is not None else ():
                step = marks(run) if marks is not None else None
                if step is not None:
                    axes.plot([step], [0.9], marker="^", ms=7, color=style["color"], mec=theme.ink, mew=0.7, zorder=5)
        axes.set(ylabel=label)
        if ylim:
            axes.set_ylim(*ylim)
        elif not any(word in label for word in BOUNDED):
            _value_axis(axes, every, log)
        _step_axis(axes, every)
        _legend(figure, axes, columns=1)
        return figure

    ends = _ends({group.label: _median(group, get) for group in groups})
    alt = f"Line chart of {label} against step, a line per group of runs. {ends}"
    return Drawing(name, title, f"{caption} {_lines_are(groups)}", alt, draw)


def _draw_group(axes: Any, group: Group, get: Callable[[Run], Series], style: dict[str, Any]) -> None:
    members = [series for series in map(get, group.runs) if len(series.steps)]
    steps, median, low, high = band(members)
    count = f" ({len(members)} seeds)" if len(members) > 1 else ""
    _line(axes, Series(steps, median, median), label=group.label + count, **style)
    if len(members) > 1:
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, lw=0)
        for series in members:  # those who went on after the first had ended
            after = series.steps >= (steps[-1] if len(steps) else -np.inf)
            if after.sum() > 1:
                _line(axes, Series(*(column[after] for column in series)), color=style["color"], lw=0.8, alpha=0.7)


def _same(one: Series, other: Series) -> bool:
    return np.array_equal(one.steps, other.steps) and np.allclose(one.values, other.values, rtol=1e-6, equal_nan=True)


def _median(group: Group, get: Callable[[Run], Series]) -> Series:
    steps, median, _, _ = band([get(run) for run in group.runs])
    return Series(steps, median, median)


def _onset(run: Run, metric: str) -> int | None:
    try:
        check_metrics(run.log, held_out_metric=metric)
    except ValueError:
        return None
    return onset_step(run.log, metric)


def _lines_drawing(
    lines: dict[str, Series],
    name: str,
    title: str,
    label: str,
    caption: str,
    log: bool = False,
    errors: float = 0.0,
    compare: tuple[float, str] | None = None,
) -> Drawing | None:
    """A line per entry in one panel: with a legend if they are few, coloured by their place if they are many."""
    lines = {text: series for text, series in lines.items() if np.isfinite(series.values).any()}
    if not lines:
        return None

    def draw(theme: Theme) -> Any:
        many = len(lines) > LEGEND_SITES
        figure, axes = _canvas(HEIGHT + (0.9 if many else 0.12 * len(lines)))
        if many:
            _coloured_lines(figure, axes, lines, theme)
        else:
            for (text, series), style in zip(lines.items(), _styles(theme), strict=False):
                _line(axes, series, label=text, **style)
                if errors and np.isfinite(series.errors).any():
                    low, high = series.values - errors * series.errors, series.values + errors * series.errors
                    axes.fill_between(series.steps, low, high, color=style["color"], alpha=0.25, lw=0)
        if compare is not None:
            axes.axhline(compare[0], color=theme.ink, lw=1, ls=(0, (2, 2)), label=compare[1])
        axes.set_ylabel(label)
        if not any(word in label for word in BOUNDED):
            _value_axis(axes, list(lines.values()), log)
        _step_axis(axes, list(lines.values()))
        if len(lines) > 1 or compare is not None:
            _legend(figure, axes)
        return figure

    return Drawing(name, title, caption, f"Line chart of {label} against step. {_ends(lines)}", draw)


def _coloured_lines(figure: Any, axes: Any, lines: dict[str, Series], theme: Theme) -> None:
    """Lines in the order of the sites from dark to bright, with a scale that names some of them."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    # Without the end that is as bright, or as dark, as the background.
    low, high = (0.0, 0.88) if theme.name == "light" else (0.2, 1.0)
    colours = colormaps[theme.sequential](np.linspace(low, high, len(lines)))
    for series, colour, style in zip(lines.values(), colours, cycle(STYLES[:2]), strict=False):
        _line(axes, series, color=colour, lw=1.2, ls=style)
    scale = ScalarMappable(cmap=ListedColormap(colours))
    scale.set_clim(-0.5, len(lines) - 0.5)
    named = np.unique(np.linspace(0, len(lines) - 1, 8 if len(lines) > 12 else len(lines)).round().astype(int))
    bar = figure.colorbar(scale, ax=axes, ticks=named, aspect=30, pad=0.02)
    bar.ax.set_yticklabels([list(lines)[i] for i in named], fontsize=8.5)
    bar.ax.invert_yaxis()  # the first site above, as in a table
    bar.outline.set_visible(False)


def _panels(
    sites: Sequence[str],
    names: dict[str, str],
    panel: Callable[[Any, str, Theme], None],
    theme: Theme,
    label: str,
    series: Sequence[Series],
    legend: bool = True,
) -> Any:
    """Small panels, one a site, with the same axes and one legend."""
    columns = 1 if len(sites) == 1 else 2
    rows = -(-len(sites) // columns)
    figure, grid = _canvas(HEIGHT + 0.4 if rows == 1 else 1.0 + 1.45 * rows, rows, columns)
    for i, axes in enumerate(np.ravel(grid)):
        if i >= len(sites):
            axes.set_visible(False)
            continue
        panel(axes, sites[i], theme)
        if len(sites) > 1:
            axes.set_title(_clipped(names[sites[i]], 26), fontsize=9.5)
        if legend and not any(word in label for word in BOUNDED):
            _value_axis(axes, series)
        # `supxlabel` would lie under a legend outside of the axes.
        lowest = i + columns >= len(sites)
        _step_axis(axes, series, ticks=4 if columns > 1 else 6, label="optimizer step" if lowest else "")
        axes.tick_params(labelbottom=lowest, labelleft=i % columns == 0)
    figure.supylabel(label, fontsize=10.5)
    if legend:
        _legend(figure, np.ravel(grid)[0])
    return figure


def _canvas(height: float = HEIGHT, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a report needs matplotlib: pip install 'hf_radial[plots]'") from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharey=rows * columns > 1)


def _line(axes: Any, series: Series, **style: Any) -> None:
    keep = thinned(series.values)
    steps, values = series.steps[keep], series.values[keep]
    if len(steps) == 1:
        style["marker"] = "o"
    axes.plot(steps, values, **style)


def thinned(values: Floats, points: int = POINTS) -> Any:
    """The places of at most so many values: all if they are no more, else the smallest and largest of every stretch.

    >>> thinned(np.array([0.0, 9.0, 1.0, 1.0, -5.0, 1.0]), points=4).tolist()
    [0, 1, 3, 4]
    """
    if len(values) <= points:
        return np.arange(len(values))
    keep = []
    for stretch in np.array_split(np.arange(len(values)), points // 2):
        part = values[stretch]
        if np.isfinite(part).any():
            keep += [stretch[np.nanargmin(part)], stretch[np.nanargmax(part)]]
    return np.unique(keep)


def _styles(theme: Theme) -> Iterator[dict[str, Any]]:
    for i in range(10_000):
        yield {"color": theme.colours[i % len(theme.colours)], "ls": STYLES[(i + i // len(theme.colours)) % len(STYLES)]}


def _legend(figure: Any, axes: Any, columns: int | None = None) -> None:
    """Below the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [_clipped(label, 48) for label in labels]
    if handles:
        fits = columns or (1 if max(map(len, labels)) > 24 else 2)
        figure.legend(handles, labels, loc="outside lower center", ncols=fits, handlelength=2.6, columnspacing=1.2)


def _clipped(text: str, length: int) -> str:
    text = f" {text}" if text.startswith("_") else text  # matplotlib leaves out of a legend what begins with one
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def _step_axis(
    axes: Any, series: Sequence[Series], epochs: float | None = None, ticks: int = 6, label: str = "optimizer step"
) -> None:
    """Steps on a logarithmic axis; from 0 to the first step it is linear, if there is a measurement at 0."""
    steps = np.concatenate([one.steps for one in series])
    positive = steps[steps > 0]
    if not len(positive):
        axes.set_xlabel(label)
        return
    low, high = float(positive.min()), float(positive.max())
    _scale(axes.xaxis, low, high, bool((steps <= 0).any()), ticks, compact)
    axes.set_xlabel(label)
    if epochs is not None:
        top = axes.twiny()
        top.grid(False)
        top.spines["top"].set_visible(True)
        _scale(top.xaxis, low * epochs, high * epochs, bool((steps <= 0).any()), ticks, compact)
        top.set_xlim(*(limit * epochs for limit in axes.get_xlim()))
        top.set_xlabel("epoch")


def _scale(axis: Any, low: float, high: float, zero: bool, ticks: int, text: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes, which = axis.axes, axis.axis_name
    scale = {"value": "symlog", "linthresh": low, "linscale": 0.3} if zero else {"value": "log"}
    getattr(axes, f"set_{which}scale")(**scale)
    margin = (high / low) ** 0.03 if high > low else 1.5
    getattr(axes, f"set_{which}lim")(-0.15 * low if zero else low / margin, high * margin)
    places = ([0.0] if zero else []) + round_numbers(low, high, ticks - zero)
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def round_numbers(low: float, high: float, most: int) -> list[float]:
    """At most so many round numbers from `low` to `high`, spread over a logarithmic axis.

    >>> round_numbers(30, 4000, 5)
    [30.0, 100.0, 300.0, 1000.0, 3000.0]
    """
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        found = [value for value in found if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found if len(found) > 1 else [low, high] if high > low * 1.2 else [low]
    return found[:: -(-len(found) // most)]


def compact(value: float) -> str:
    """A number as an axis has room for.

    >>> compact(0), compact(2500), compact(20_000), compact(0.25), compact(3e-5)
    ('0', '2500', '20k', '0.25', '3e-5')
    """
    size = abs(value)
    if value == 0:
        return "0"
    if 1e4 <= size < 1e10:
        power = 3 * int(np.log10(size) // 3)
        return f"{value / 10**power:.3g}{ {3: 'k', 6: 'M', 9: 'G'}[power] }"
    if 1e-3 <= size < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2g}".split("e") if "e" in f"{value:.2g}" else f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _value_axis(axes: Any, series: Sequence[Series], log: bool = False) -> None:
    """Logarithmic if asked for, or if the values are positive and span more than a factor of 30."""
    values = np.concatenate([one.values for one in series])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if not len(positive):
        return
    low, high = float(positive.min()), float(positive.max())
    if len(positive) == len(values) and (log or high > 30 * low) and high > 1.001 * low:
        _scale(axes.yaxis, low, high, False, 6, compact)
        bottom, top = axes.dataLim.intervaly if np.isfinite(axes.dataLim.intervaly).all() else (low, high)
        if bottom > 0:  # bands and lines to compare with are to be seen as well
            bottom, top = min(bottom, low), max(top, high)
            margin = max(1.15, (top / bottom) ** 0.04)  # a line at the edge is cut in half
            axes.set_ylim(bottom / margin, top * margin)
    elif len(positive) < len(values) and high > 1000:
        axes.set_yscale("symlog", linthresh=high / 1000)
        places = [0.0, *round_numbers(high / 1000, high, 4)]
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes.yaxis.set_major_locator(FixedLocator(places))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def _edges(centres: Floats) -> Floats:
    """The edges of cells around the centres, for `pcolormesh`."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[max(2 * centres[0] - between[0], 0)], between, [2 * centres[-1] - between[-1]]])


def _epochs_per_step(run: Run) -> float | None:
    """How many epochs a step is, if the log says so and it is the same all along."""
    ratios = [
        logs["epoch"] / logs["step"] for logs in run.log if logs["step"] > 0 and isinstance(logs.get("epoch"), (int, float))
    ]
    if not ratios or min(ratios) <= 0 or max(ratios) > 1.05 * min(ratios):
        return None
    return ratios[-1]


def _losses(run: Run) -> dict[str, Series]:
    evaluated = {name for logs in run.log for name in logs if name.startswith("eval_") and name.endswith("_loss")}
    task = run.logged("task_loss")
    with_penalty = any(logs.get("radial_lambda", 0) > 0 for logs in run.log)
    lines = {"training loss of the task": task} if len(task.steps) else {}
    if with_penalty or not lines:
        lines["training loss" + (" with the penalty" if lines else "")] = run.logged("loss")
    for name in sorted(evaluated - {"eval_loss"})[: LEGEND_SITES - len(lines)]:
        lines[f"{name.removesuffix('_loss').removeprefix('eval_')} loss, evaluated"] = run.logged(name)
    if any("eval_loss" in logs for logs in run.log):
        lines["evaluation loss"] = run.logged("eval_loss")
    return lines


def _pages(sites: Sequence[str]) -> list[tuple[list[str], str]]:
    """The sites in figures of at most `PANELS`, with what tells their titles apart."""
    pages = [list(sites[i : i + PANELS]) for i in range(0, len(sites), PANELS)]
    return [(page, f" {i} of {len(pages)}" if len(pages) > 1 else "") for i, page in enumerate(pages, 1)]


def _named(run: Run, *metrics: str) -> list[Drawing | None]:
    return [site_lines(run, metric) for metric in metrics]


def _ends(lines: dict[str, Series]) -> str:
    """What lines do, for those who cannot see them: where each begins and ends; of many only the range."""
    lines = {name: Series(*(c[np.isfinite(s.values)] for c in s)) for name, s in lines.items()}
    lines = {name: series for name, series in lines.items() if len(series.values)}
    if len(lines) > 2 * LEGEND_SITES:
        ends = [series.values[-1] for series in lines.values()]
        return f"{len(lines)} lines; at the end from {min(ends):.3g} to {max(ends):.3g}."
    told = [
        f"{name} from {line.values[0]:.3g} at step {line.steps[0]:,.0f} to {line.values[-1]:.3g} at {line.steps[-1]:,.0f}"
        for name, line in lines.items()
    ]
    return "; ".join(told) + "." if told else ""
