"""Names that other packages add: interventions, tasks and metrics, in one kind of registry.

A package declares them in its metadata. Nothing of it is imported until one of its names is used:

    [project.entry-points."hf_radial.interventions"]
    sign_noise = "my_package.noise:SignNoise"

A notebook registers them by a call, for this process: `register_intervention(SignNoise)`.

In here: `Registry`, which finds the object of a name. Not in here: what an intervention, a task or a metric is. Each kind has
its registry in its own room.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

logger = logging.getLogger(__name__)
OURS = "hf_radial"
KINDS = ("intervention", "task", "metric")


class PluginError(ImportError):
    """A name of another package could not be loaded, or two packages have it. The message names the packages."""


@dataclass(frozen=True)
class Source:
    """Where a name comes from.

    Attributes:
        package: the package and its version, or the module that registered the name.
        place: "module:attribute".
        how: the entry point or the call that gives the name, in words.
        load: gives the object.
    """

    package: str
    place: str
    how: str
    load: Callable[[], Any]


class Registry(Mapping[str, Any]):
    """The objects of one kind by name: those of hf_radial, those that were registered, and those of other packages.

    Iterating gives names and imports nothing; `registry[name]` imports the object of this name only.

    Args:
        kind: what the objects are, in one word. The group of entry points is `hf_radial.<kind>s`.
        ours: name -> "module:attribute" of this package.
        check: gives what is wrong with an object under this name, in words; empty if nothing is.

    Example:
        >>> numbers = Registry("number", {"pi": "math:pi"}, lambda found, name: "" if type(found) is float else "no float")
        >>> list(numbers), numbers["pi"]
        (['pi'], 3.141592653589793)
    """

    def __init__(self, kind: str, ours: Mapping[str, str], check: Callable[[Any, str], str]) -> None:
        self.kind, self.group, self.ours, self._check = kind, f"{OURS}.{kind}s", dict(ours), check
        self._registered: dict[str, Source] = {}

    def __getitem__(self, name: str) -> Any:
        """The object of a name.

        Raises:
            KeyError: no package has this name.
            PluginError: two packages have it, or its package cannot be imported or gives something else than this kind.
        """
        source = self.source(name)
        if source.package == OURS:
            return source.load()
        try:
            found = source.load()
        except Exception as error:
            raise PluginError(
                f"{self.kind} {name!r} could not be imported when it was used: {source.how} of {source.package} raised "
                f"{type(error).__name__}: {error}. Repair or uninstall that package; all other names still work"
            ) from error
        if wrong := self._check(found, name):
            raise PluginError(f"{self.kind} {name!r}: {source.how} of {source.package} gives {found!r}, but {wrong}")
        return found

    def __contains__(self, name: object) -> bool:
        return bool(isinstance(name, str) and self._sources(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.ours, *self._registered, *(point.name for point in _points(self.group))]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def source(self, name: str) -> Source:
        """Where a name comes from; imports nothing.

        Raises:
            KeyError: no package has this name.
            PluginError: two packages have it.
        """
        sources = self._sources(name)
        if not sources:
            raise KeyError(name)
        if len(sources) > 1:
            first, second = sources[:2]
            raise PluginError(
                f"{self.kind} {name!r} is the name of two: {first.how} of {first.package} ({first.place}), and {second.how} of "
                f"{second.package} ({second.place}). Uninstall one of the packages, or rename its {self.kind}"
            )
        return sources[0]

    def loaded(self, ours: bool = True) -> Iterator[tuple[str, Any]]:
        """Names and objects. A name that cannot be loaded is left out, with a warning that says why.

        Args:
            ours: whether those of hf_radial are included.
        """
        for name in self if ours else [name for name in self if name not in self.ours]:
            try:
                yield name, self[name]
            except PluginError as error:
                logger.warning("%s", error)

    def register(self, made: Any, name: str) -> None:
        """Add an object of this process. Registering the same class or function again replaces it.

        Raises:
            TypeError: it is not of this kind.
            PluginError: another package has this name.
        """
        if wrong := self._check(made, name):
            raise TypeError(f"register_{self.kind}({made!r}): {wrong}")
        place = f"{made.__module__}:{made.__qualname__}"
        others = [source for source in self._sources(name) if source.place != place]
        if others:
            other = others[0]
            raise PluginError(
                f"register_{self.kind}: the name {name!r} of {place} is taken by {other.how} of {other.package} "
                f"({other.place}). Choose another name"
            )
        how = f"register_{self.kind}"
        self._registered[name] = Source(f"the module {made.__module__}", place, how, lambda: made)

    def unknown(self, name: str) -> str:
        """What to type instead of a name that no package has, in words: the most similar name, or all of them."""
        near = get_close_matches(name, list(self), 1)
        return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self)}"

    def _sources(self, name: str) -> list[Source]:
        """All sources of a name. If there are none, packages that were installed meanwhile are looked for, too."""
        found = self._known(name)
        if not found:
            _points.cache_clear()
            found = self._known(name)
        return found

    def _known(self, name: str) -> list[Source]:
        found = []
        if name in self.ours:
            found.append(Source(OURS, self.ours[name], f"the {self.kind}", lambda: _import(self.ours[name])))
        if name in self._registered:
            found.append(self._registered[name])
        # A package may register what it also declares, and two environments on the path may hold the same package.
        places = {source.place for source in found}
        for point in _points(self.group):
            if point.name == name and point.value.replace(" ", "") not in places:
                places.add(point.value.replace(" ", ""))
                how = f"the entry point '{point.name} = {point.value}'"
                found.append(Source(_package(point), point.value, how, point.load))
        return found


def packages() -> dict[str, str]:
    """Name and version of every installed package that adds something; imports none of them."""
    points = [point for kind in KINDS for point in _points(f"{OURS}.{kind}s")]
    return {point.dist.name: point.dist.version for point in points if point.dist is not None}


def _import(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


@cache
def _points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of all installed packages; read once, in milliseconds."""
    return tuple(entry_points(group=group))


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist is not None else "a package without metadata"
