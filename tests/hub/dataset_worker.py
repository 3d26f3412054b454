"""Publishes datasets to the Hub at HF_ENDPOINT, one after the other, and prints each outcome as JSON.

    HF_ENDPOINT=... PYTHONPATH=.:tests/hub python tests/hub/dataset_worker.py '[{"configs": ["add_p23_f0.5_s0"], ...}]'

A call's "faults" are injected before it and taken away after it; "largest_file" is the most bytes a file may have meanwhile.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from hub_client import HubClient

from hf_radial.hub import retry
from hf_radial.hub.publish_dataset import publish_dataset

UNLIMITED = resource.RLIM_INFINITY


def publish(faults: tuple[dict[str, Any], ...] = (), largest_file: int = UNLIMITED, **call: Any) -> dict[str, str]:
    hub = HubClient(os.environ["HF_ENDPOINT"])
    for fault in faults:
        hub.fail(**fault)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, UNLIMITED))
    try:
        return {"url": publish_dataset(call.pop("task", "modular"), **call)}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        with suppress(OSError):  # where there is none
            hub.heal()


if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    retry.FIRST_WAIT, retry.PATIENCE = 0.05, 10.0
    print(json.dumps([publish(**call) for call in json.loads(sys.argv[1])]))
