"""`RadialPenalty`: the hypersphere penalty on a model, for any training loop.

It hooks the model's sites, collects their penalties while the model's own `forward` runs, and returns them once. It does not
know micro-batches, ranks or schedules. A loop that has them calls `take` for the sums and normalises them itself, as
`hf_radial.training` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isfinite, sqrt
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hf_radial.penalty.checks import check_checkpointing, check_unhooked, skips_layers, warn_of_frozen
from hf_radial.penalty.config import check_lambda, check_radius_choice, multiple_of
from hf_radial.penalty.functional import SIDES, radius, with_radius
from hf_radial.penalty.site_sums import PassSums, SiteSums, add_passes, width_of
from hf_radial.penalty.vectors import PADDING_MASKS, padding_mask, parameter_names
from hf_radial.sites.find import Sites, find_sites, roots_of
from hf_radial.sites.hooks import Hook, RootHook, call_arguments, with_vectors
from hf_radial.sites.preserve import evaluating
from hf_radial.sites.site import Site, site_vectors


class RadialPenalty:
    """The penalty `radial_lambda * sum over sites of mean over vectors of (||h|| - R)^2 / d` (arXiv 2606.32000, Eq. 3).

        with RadialPenalty(model, radial_lambda=0.05) as penalty:
            loss = model(**batch).loss + penalty()

    Vectors that the batch's `attention_mask` (shape `(batch, sequence)`) marks as padding do not count. Only forward passes of
    the hooked model itself, in training mode with gradients enabled, are collected: evaluation and generation cost nothing.
    Several passes before one `penalty()` are combined, and every vector has the same weight.

    Two penalties may be on one model if they share no site, for example attention with one radius and feed-forward with
    another: the loop adds both. A site that both have is an error.

    Args:
        model: the module that the loop calls. Its blocks, adapters and wrappers may be anything. If it is not a `transformers`
            model but contains one (a `SentenceTransformer`), the first one in it gives the sites and the padding masks.
        radial_lambda: weight of the penalty, finite and not negative. It may be changed at any time (`penalty.radial_lambda`).
            With 0 the radii are still measured, and the model's graph and gradients do not change.
        radius: the target `R` of every site: a positive number, `"sqrt_d"` (the paper's, and the default `None`), or
            `"initial"`, each site's own mean radius on the batch given to `calibrate`, or a multiple, such as `"2*initial"`.
        side: `"both"` (the paper's), `"above"` (only vectors outside the sphere are pulled in) or `"below"` (only vectors
            inside it are pushed out).
        sites: module name patterns that replace or restrict the sites that are found; see `hf_radial.sites.find_sites`.
        where: `"increment"` or `"pre_norm"`; see `hf_radial.sites.find_sites`.
        inputs: a small batch as in training, `{name: tensor}`. The model runs on it once to find its sites. A `transformers`
            model of text or images needs none.

    Raises:
        ValueError: `radial_lambda`, `radius`, `side`, `sites` or `where` is out of range, or a site is missing.
        TypeError: on the first forward, if a site's output is not a floating point tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        radial_lambda: float,
        *,
        radius: float | str | None = None,
        side: str = "both",
        sites: Sequence[str] | None = None,
        where: str = "increment",
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        check_lambda(radial_lambda)
        self.model = model
        self.radial_lambda = radial_lambda
        self.radius = check_radius_choice(radius)
        if side not in SIDES:
            raise ValueError(f"side={side!r} is unknown; choose one of {', '.join(SIDES)}")
        self.side = side
        self.sites: Sites = find_sites(model, inputs, sites, where)
        self.targets: dict[str, float] = {}
        self._factor, self._base = multiple_of(self.radius)
        for site in self.sites:
            if self._base is None:
                self.targets[site.name] = self._factor
            elif self._base == "sqrt_d" and site.width is not None:
                self.targets[site.name] = self._factor * sqrt(site.width)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        # The batch's labels, if the model is called without them. They mark a decoder's padding.
        self.labels: Tensor | None = None
        self._masks: dict[str, Tensor | None] = {}
        self._radii: list[tuple[int, Tensor]] = []  # site number and radii, of this forward pass
        self._pass_sums = PassSums(self.sites, side)
        self._mask_names = [name for name in PADDING_MASKS if any(site.mask == name for site in self.sites)]
        self._collecting = False
        self._calibrating = False
        self.paused = False  # if true, forward passes are not collected
        self.muted = False  # if true, nothing is collected until the next attach()
        self.strict = True  # if false, a site that cannot be measured is left out
        # Each module whose call has the padding masks among its arguments, with the names of its arguments.
        self._roots = {root: parameter_names(root) for root in roots_of(model)}
        # The roots that are running now, outermost first, each with the masks to restore after it.
        self._open: list[tuple[nn.Module, dict[str, Tensor | None]]] = []
        self._first_call: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None] | None = None
        self._checked_gradient = False
        self.skips_layers = skips_layers(model)  # a layer that LayerDrop leaves out of a pass adds no vectors
        self.reset()

    @property
    def radial_lambda(self) -> float:
        """The weight of the penalty."""
        return self._radial_lambda

    @radial_lambda.setter
    def radial_lambda(self, value: float) -> None:
        self._radial_lambda = value
        # The hooks read this flag, not the weight. `torch.compile` compiles them with the model, and again for every new number
        # that they read. Under a warm-up the weight is new in every step.
        self._differentiable = value > 0

    # Attaching and detaching ------------------------------------------------------------------------------------------

    def attach(self) -> RadialPenalty:
        """Hook the sites. Returns itself.

        Raises:
            RuntimeError: it is attached already.
            ValueError: the model uses reentrant gradient checkpointing; or another `RadialPenalty` has one of the sites.
        """
        if self._handles:
            raise RuntimeError("this RadialPenalty is attached already; detach() it first")
        check_checkpointing(self.model)
        self.muted = False
        modules = dict(self.model.named_modules())
        check_unhooked(self.sites, modules, RadialPenalty)
        for root in self._roots:
            self._handles.append(root.register_forward_pre_hook(RootHook(self._enter_forward), with_kwargs=True))
            # always_call: if a forward raises, collecting must still end.
            self._handles.append(root.register_forward_hook(RootHook(self._leave_forward), always_call=True))
        for i, site in enumerate(self.sites):
            hook = Hook(partial(self._at_site, i))
            module = modules[site.name]
            register = module.register_forward_pre_hook if site.at_input else module.register_forward_hook
            self._handles.append(register(hook, with_kwargs=True))
        return self

    def detach(self) -> None:
        """Remove every hook and forget all that was collected. The model is then as before `attach`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._collecting, self._open, self._first_call = False, [], None
        self._radii, self._masks = [], {}
        self.reset()

    def __enter__(self) -> RadialPenalty:
        return self.attach()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.detach()

    # What was collected -----------------------------------------------------------------------------------------------

    def __call__(self) -> Tensor:
        """The weighted penalty of the forward passes since the last call: a differentiable scalar to add to the loss.

        Every collected vector is returned once. Under gradient accumulation, divide the penalty as you divide the loss. That is
        exact if every micro-batch has equally many vectors. For any split, weight each micro-batch by its share of the step's
        vectors, `share * penalty.radial_lambda * penalty.take().mean_penalty().sum()`, as `RadialTrainer` does.
        """
        return self.radial_lambda * self.take().mean_penalty().sum()

    def take(self) -> SiteSums:
        """The sums over the vectors collected since the last `take`. They are then forgotten.

        Raises:
            RuntimeError: a site has no vector, because no forward pass of the hooked model ran in training mode.
        """
        passes, seen = self._collected, set().union(*self._seen)
        unseen = [site.name for i, site in enumerate(self.sites) if i not in seen] if len(seen) < len(self.sites) else []
        if self.strict and (len(unseen) == len(self.sites) or (unseen and not self.skips_layers)):
            raise RuntimeError(
                f"no vector was collected at {', '.join(unseen[:3])}{', ...' if len(unseen) > 3 else ''}: attach() first, then "
                f"call {type(self.model).__name__} itself (not one of its parts) in training mode with gradients enabled; "
                "if it was compiled and called before attach(), call torch.compiler.reset() after attach(). A loss that "
                "runs the model in its backward pass (CachedMultipleNegativesRankingLoss, say) does not work: use another"
            )
        self.reset()
        if not passes:
            zeros = torch.zeros(len(self.sites), device=next(self.model.parameters()).device)
            return SiteSums(zeros, zeros, zeros.long())
        return add_passes(passes)

    def reset(self) -> None:
        """Forget all that was collected, and release its graph."""
        self._collected: list[SiteSums] = []  # one per forward pass
        self._seen: list[set[int]] = []  # the sites of each of these passes

    def calibrate(self, **batch: Any) -> dict[str, float]:
        """Set each site's target to its mean radius on `batch`, times the factor of `radius="2*initial"`. Returns the targets.

        Runs one forward of the model in evaluation mode. Training mode, random state and buffers are preserved.

        Raises:
            ValueError: the mean radius of a site is not a positive number.
            Whatever the model's forward raises on this batch.
        """
        return self._calibrate(self.model, (), batch)

    def calibrate_on_first_forward(self, reduce: Callable[[Tensor], Tensor], then: Callable[[], None]) -> None:
        """Calibrate as `calibrate` does, on the arguments of the first training forward, just before that forward.

        Args:
            reduce: sums a tensor over all processes. Every process calls it once, in its first training forward.
            then: called when the targets are known.
        """

        def first_call(root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._first_call = None
            try:
                self._calibrate(root, args, kwargs, reduce)
            except ValueError as error:
                if self.strict:
                    raise
                self.muted = True
                warnings.warn(f"radial_lambda=0: training goes on, but no radii are measured: {error}", stacklevel=2)
            then()

        self._first_call = first_call

    @property
    def waits_for_first_forward(self) -> bool:
        """Whether the targets are not known yet and come with the first training forward."""
        return self._first_call is not None

    @torch.no_grad()
    def _calibrate(
        self,
        root: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> dict[str, float]:
        self.reset()
        self._calibrating = True
        temporary = not self._handles
        if temporary:
            self.attach()
        try:
            with evaluating(self.model):
                root(*args, **kwargs)
            sums = self.take()
        finally:
            self._calibrating = False
            if temporary:
                self.detach()
        radius, count = reduce(torch.stack([sums.radius, sums.count.to(sums.radius.dtype)]))
        means = (radius / count.clamp(min=1)).tolist()
        for site, mean in zip(self.sites, means, strict=True):
            if not (isfinite(mean) and mean > 0):
                raise ValueError(
                    f"radius='initial': the mean radius of site {site.name!r} on the calibration batch is {mean}; "
                    "give the target as a number instead"
                )
        factor = self._factor if self._base == "initial" else 1.0
        self.targets.update({site.name: factor * mean for site, mean in zip(self.sites, means, strict=True)})
        return dict(self.targets)

    # Hooks ------------------------------------------------------------------------------------------------------------

    # A site's hook keeps only the radii. Masks, targets and sums are applied after the whole forward. The operations inside a
    # block therefore do not depend on the batch's mask. Gradient checkpointing runs a block again during backward and requires
    # the same operations; it cannot receive the mask of another batch.

    def enter_forward(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to collect in a forward that was already running when `attach` was called."""
        self._enter_forward(root, args, kwargs)

    def _enter_forward(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open:  # a transformers model within a wrapper: its own arguments mark the padding best
            self._open.append((root, self._masks))
            if self._collecting:
                self._add_up()
                self._masks = {name: self._mask(root, name, args, kwargs, self._masks.get(name)) for name in self._mask_names}
            return
        collecting = not self.paused and root.training and torch.is_grad_enabled() and not self.muted
        if collecting and self._first_call is not None:
            self._first_call(root, args, kwargs)
            collecting = not self.muted
        self._open.append((root, {}))
        self._collecting = self._calibrating or collecting
        self._radii = []
        if self._collecting:
            self._masks = {name: self._mask(root, name, args, kwargs) for name in self._mask_names}

    def _mask(
        self, root: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], default: Tensor | None = None
    ) -> Tensor | None:
        mask = padding_mask(call_arguments(self._roots[root], args, kwargs), name, self.labels)
        return default if mask is None else mask

    def _leave_forward(self, root: nn.Module, args: Any, output: Any) -> None:
        if not self._open or self._open[-1][0] is not root:
            return  # the forward raised before it was entered
        try:
            # The output is None if the forward raised. Its radii are then dropped.
            if self._collecting and output is not None:
                self._add_up()
        finally:
            self._radii = []
            self._masks = self._open.pop()[1]
            self._collecting = self._collecting and bool(self._open)

    def _at_site(self, index: int, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
        if self._collecting:
            if self._differentiable and not self._calibrating and not torch.is_grad_enabled():
                raise RuntimeError(
                    f"site {self.sites[index].name!r} runs without a graph within a forward that has one (reentrant "
                    "checkpointing, reversible layers, a part under torch.no_grad()), so the penalty would have no gradient "
                    f"there; leave it out with sites=['!{self.sites[index].name}'], or let it run with gradients"
                )
            r, replacement = self._measure(index, args, kwargs, output)
            if r is not None:
                self._radii.append((index, r))
            return replacement
        if self._differentiable and not self.paused and module.training and torch.is_grad_enabled():
            # A checkpointed block runs again: it needs the same operations, but its vectors do not count twice.
            return self._measure(index, args, kwargs, output)[1]
        return None

    def _measure(self, index: int, args: Any, kwargs: Any, output: Any) -> tuple[Tensor | None, Any]:
        """The site's radii, and the hook's return value, which replaces the vectors. `None` for either if there is none."""
        site = self.sites[index]
        h = site_vectors(site, args, kwargs, output)
        if h is None:
            return None, None
        if site.width is None:
            self.sites.set_width(index, h.shape[site.dim])
        if not self._differentiable or self._calibrating:
            return radius(h.detach(), site.dim), None  # measured only: the graph is bit for bit that without a penalty
        if site.in_place:
            return radius(h.clone(), site.dim), None  # the model changes h in place, and the backward pass needs its value now
        same, r = with_radius(h, site.dim)
        if same is h:
            return r, None
        replacement = with_vectors(site, args, kwargs, output, same)
        return (radius(h, site.dim), None) if replacement is None else (r, replacement)

    def _add_up(self) -> None:
        """Add up one forward pass, or the part of it since the last call."""
        if not self._radii:
            return
        if not self._checked_gradient and self._differentiable and not self._calibrating:
            self._checked_gradient = True
            warn_of_frozen(self.sites, self._radii)
        targets, target_of = (None, _no_target) if self._calibrating else (self.targets.values(), self._target)
        summed = self._pass_sums.add_up(self._radii, self._masks, targets, target_of, self.strict or self._calibrating)
        self._radii = []
        if summed is not None:
            self._collected.append(summed[0])
            self._seen.append(set(summed[1]))

    def _target(self, site: Site) -> float:
        if self._base == "initial" and site.name not in self.targets:
            raise RuntimeError("radius='initial' needs calibrate(**batch) before the first training forward")
        return self.targets.setdefault(site.name, self._factor * sqrt(width_of(site)))

    # Text output --------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        state = "attached" if self._handles else "detached"
        return (
            f"RadialPenalty({type(self.model).__name__}, radial_lambda={self.radial_lambda:g}, radius={self.radius!r}, "
            f"side={self.side!r}, {len(self.sites)} sites, {state})"
        )

    def table(self) -> str:
        """The sites as text, with their target radii `R`. `print(penalty.table())`."""
        targets = [self.targets.get(site.name) for site in self.sites]
        return self.sites.table({"target radius": ["?" if t is None else f"{t:.2f}" for t in targets]})


def _no_target(site: Site) -> float:
    return 0.0
