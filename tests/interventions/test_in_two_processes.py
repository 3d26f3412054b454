"""Each intervention in two processes does what it does in one with the whole batch."""

import pytest
import torch
from interventions_worker import CASES, train
from safetensors.torch import load_file
from two_processes import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    launch("interventions_worker.py", str(folder))
    return folder


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_two_processes_equal_the_whole_batch(kind, name, folder):
    if name == "jacobian":
        for rank in (0, 1):
            assert "it needs a single process" in (folder / f"{kind}_{name}_rank{rank}.txt").read_text()
        return
    ours, theirs = (load_file(folder / f"{kind}_{name}_rank{rank}.safetensors") for rank in (0, 1))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    # Dropout draws on each rank. SOAP starts from gradients without full rank, whose eigenvectors rounding decides.
    if name not in ("dropout", "soap"):
        whole = train(folder, kind, name, 1)
        for key, value in whole.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=2e-6)
