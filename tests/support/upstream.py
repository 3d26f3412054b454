"""transformers' own tests of its `Trainer`, with `RadialTrainer(radial_lambda=0)` in its place.

    git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers
    pip install parameterized
    python tests/support/upstream.py transformers                             # all of tests/trainer that needs no launcher
    python tests/support/upstream.py transformers tests/trainer/test_trainer.py -k resume

Runs the tests of the checkout twice with the installed transformers: as they are, and with `Trainer` and `Seq2SeqTrainer`
replaced. Prints every test whose outcome differs, and exits with 1 if one that is not in `EXPECTED` passes only as it is. The
checkout should be of the version that is installed; tests that need the network, a GPU or a package that is not there fail or
skip both times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

SWITCH = "HF_RADIAL_UPSTREAM"  # set where pytest is to load this file as a plugin that replaces the trainers
EXPECTED = {"test_save_best_checkpoint": "it counts the files in output_dir, and run.json is one more"}
LEFT_OUT = ("distributed", "fsdp", "deepspeed", "tpu", "context_parallel")  # these start processes of their own


def pytest_configure() -> None:
    """Replace the trainers before any test is imported."""
    if SWITCH in os.environ:
        import transformers

        from hf_radial import RadialMixin, RadialTrainer

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            super(type(self)._radial_class, self).__init__(*args, **{"radial_lambda": 0.0, **kwargs})

        for name, bases in (("Trainer", (RadialTrainer,)), ("Seq2SeqTrainer", (RadialMixin, transformers.Seq2SeqTrainer))):
            radial: Any = type(name, bases, {"__init__": init})
            radial._radial_class = radial
            setattr(transformers, name, radial)


def outcomes(checkout: Path, words: list[str], replaced: bool) -> dict[str, tuple[str, str]]:
    """Outcome and message of each test of the checkout."""
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop(SWITCH, None)
    if replaced:
        environment[SWITCH] = "1"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "upstream", "--tb=line", f"--junitxml={report}", *words]
        subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, check=False)
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):
            bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
            outcome = ("passed", "") if bad is None else (bad.tag, bad.get("message", ""))
            found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of transformers")
    options, words = parser.parse_known_args()
    if not words or words[0].startswith("-"):
        files = sorted((options.checkout / "tests" / "trainer").glob("test_trainer*.py"))
        if not files:
            parser.error(f"{options.checkout} has no tests/trainer/test_trainer*.py")
        chosen = [file for file in files if not any(word in file.name for word in LEFT_OUT)]
        words = [*(str(file.relative_to(options.checkout)) for file in chosen), *words]
    plain, ours = (outcomes(options.checkout, words, replaced) for replaced in (False, True))
    for name, found in (("Trainer", plain), ("RadialTrainer(radial_lambda=0)", ours)):
        print(f"{name}: {dict(Counter(outcome for outcome, _ in found.values()))}")
    absent = ("missing", "")
    differing = [name for name in sorted(plain | ours) if plain.get(name, absent)[0] != ours.get(name, absent)[0]]
    for name in differing:
        (before, before_message), (after, after_message) = plain.get(name, absent), ours.get(name, absent)
        reason = EXPECTED.get(name.rpartition("::")[2])
        expected = f" (expected: {reason})" if reason else ""
        print(f"{name}: {before} -> {after}{expected}\n    {(after_message or before_message)[:500]}")
    unexpected = [name for name in differing if name.rpartition("::")[2] not in EXPECTED]
    if "passed" not in {outcome for outcome, _ in plain.values()}:
        print(
            "nothing passes as it is, so nothing is compared; the first reason: " + next(iter(plain.values()), absent)[1][:500]
        )
        return 1
    return int(any(plain.get(name, absent)[0] == "passed" for name in unexpected))


if __name__ == "__main__":
    sys.exit(main())
