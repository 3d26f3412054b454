"""The earlier measurements that a measurement is compared with, and the file that keeps them for a resumed run.

`measure` takes and returns a `Memory`. A `History` also keeps some sketches of the whole run, to be compared with its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_radial.geometry.drift import Sketch, drift_readings
from hf_radial.geometry.reading import Reading
from hf_radial.safe_files import replacing

MEMORY_FILE = "_geometry_memory.safetensors"
MOST_SKETCHES = 32  # kept for the comparison with the last measurement

Moment = tuple[int, float | None]  # optimizer step and epoch


@dataclass
class Memory:
    """What the next measurement is compared with, by site, on the CPU.

    Attributes:
        vectors: the first of the probe's vectors at this measurement, float32.
        first: sketches of the first measurement.
        previous: sketches of this one.
    """

    vectors: dict[str, Tensor] = field(default_factory=dict)
    first: dict[str, Sketch] = field(default_factory=dict)
    previous: dict[str, Sketch] = field(default_factory=dict)


@dataclass
class History:
    """The memory of a whole run.

    Attributes:
        memory: for the next measurement.
        sketches: at most `MOST_SKETCHES` of the measurements so far, spread over the run.
    """

    memory: Memory = field(default_factory=Memory)
    sketches: dict[Moment, dict[str, Sketch]] = field(default_factory=dict)

    def keep(self, moment: Moment, memory: Memory) -> None:
        """Store the memory of a measurement. It has new sketches only if `drift` was measured."""
        if memory.previous is not self.memory.previous:
            self.sketches[moment] = memory.previous
            if len(self.sketches) > MOST_SKETCHES:  # keep every second one
                self.sketches = dict(list(self.sketches.items())[::2])
        self.memory = memory

    def against_last(self) -> list[tuple[Moment, list[Reading]]]:
        """How similar each kept measurement is to the last one."""
        last = self.memory.previous
        return [
            (moment, drift_readings(site, one, last[site], "last"))
            for moment, sketches in self.sketches.items()
            for site, one in sketches.items()
            if site in last and last[site].similarity.shape == one.similarity.shape
        ]

    def save(self, folder: Path, probe: str) -> None:
        """Write `MEMORY_FILE` into a checkpoint, whole or not at all; `probe` is the fingerprint of the measured rows."""
        with replacing(folder / MEMORY_FILE) as new:
            save_file(self._tensors(), new, {"probe": probe})

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"vectors|{site}": h for site, h in self.memory.vectors.items()}
        kept = {"first": self.memory.first, "previous": self.memory.previous}
        kept |= {f"{step}:{epoch}": sketches for (step, epoch), sketches in self.sketches.items()}
        for when, sketches in kept.items():
            for site, one in sketches.items():
                tensors[f"{when}|{site}|similarity"], tensors[f"{when}|{site}|directions"] = one.similarity, one.directions
        return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def read_history(folder: Path, probe: str) -> History | None:
    """The history in a checkpoint; `None` if it is of another probe, whose vectors cannot be compared with this one's."""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    with safe_open(folder / MEMORY_FILE, "pt") as file:
        if (file.metadata() or {}).get("probe", probe) != probe:
            return None
        for name in file.keys():  # noqa: SIM118
            when, site, *part = name.split("|")
            found.setdefault(when, {}).setdefault(site, {})[part[0] if part else "h"] = file.get_tensor(name)
    vectors = {site: parts["h"] for site, parts in found.pop("vectors", {}).items()}
    sketches = {when: {site: Sketch(**parts) for site, parts in sites.items()} for when, sites in found.items()}
    memory = Memory(vectors, sketches.pop("first", {}), sketches.pop("previous", {}))
    by_moment = {_moment(when): of_sites for when, of_sites in sketches.items()}
    return History(memory, dict(sorted(by_moment.items(), key=lambda item: item[0][0])))


def _moment(text: str) -> Moment:
    step, _, epoch = text.partition(":")
    return int(step), None if epoch == "None" else float(epoch)
