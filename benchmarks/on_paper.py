"""The penalty's cost for a large model on many GPUs, from formulas. Nothing is measured here.

    python benchmarks/on_paper.py           # a 7B Llama under FSDP on 64 GPUs

With `S` sites of width `d`, `T` tokens per GPU and step, `b` bytes per number, `N` parameters and `G` GPUs, per GPU and step:

- **kept for the backward pass**: the vectors, `S T d b`, unless the model keeps them anyway or the block is checkpointed, and
  their radii, `4 S T`. With gradient checkpointing, the vectors of the one replayed block: `2 T d b`.
- **memory traffic**: the forward pass reads `S T d b`. The backward pass reads the vectors again, and reads and writes their
  gradient. Together `4 S T d b`.
- **arithmetic**: 2 operations per number forward, 3 backward, `5 S T d` in all. A step of the model has `6 N T`.
- **messages**: one all-reduce of the number of vectors, 4 bytes per padding mask, and one of `4 (1 + 7 S)` bytes per log. FSDP
  itself sends `3 * 2 N (G - 1) / G` bytes in bf16: parameters gathered twice, gradients once.

Under FSDP every GPU has whole vectors, so radii need no communication of activations.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
TITLE = "A large model on many GPUs, on paper"


@dataclass(frozen=True)
class Cluster:
    """Model and machine. The defaults are the shape of Llama 2 7B on 64 GPUs like the H100 SXM.

    Attributes:
        layers, width, parameters: the model's, with two sites per layer.
        gpus: number of GPUs that share the parameters.
        tokens: tokens per GPU and step.
        dtype_bytes: bytes per activation.
        flops: a GPU's dense bf16 operations per second.
        bandwidth: its memory bandwidth, bytes per second.
        used: share of `flops` that training reaches.
        logging_steps: steps from one log to the next.
    """

    layers: int = 32
    width: int = 4096
    parameters: int = 6_738_415_616
    gpus: int = 64
    tokens: int = 8192
    dtype_bytes: int = 2
    flops: float = 989e12
    bandwidth: float = 3.35e12
    used: float = 0.4
    logging_steps: int = 10


def penalty_on_paper(cluster: Cluster) -> dict[str, float]:
    """The formulas above, for one GPU and step.

    >>> found = penalty_on_paper(Cluster(layers=1, width=10, parameters=1000, gpus=2, tokens=3))
    >>> found["kept_bytes"], found["messages"], found["message_bytes"]
    (144.0, 1.1, 10.0)
    """
    c = cluster
    sites = 2 * c.layers
    vectors = sites * c.tokens * c.width * c.dtype_bytes
    radii = 4 * sites * c.tokens
    step_seconds = 6 * c.parameters * c.tokens / (c.flops * c.used)
    traffic = 4 * vectors
    return {
        "sites": float(sites),
        "kept_bytes": float(vectors + radii),
        "kept_bytes_checkpointed": float(vectors / c.layers + radii),
        "traffic_bytes": float(traffic),
        "traffic_seconds": traffic / c.bandwidth,
        "operations": 5.0 * sites * c.tokens * c.width,
        "operations_of_model": 6.0 * c.parameters * c.tokens,
        "step_seconds": step_seconds,
        "time_ratio": 1 + traffic / c.bandwidth / step_seconds,
        "messages": 1 + 1 / c.logging_steps,
        "message_bytes": 4 + 4 * (1 + 7 * sites) / c.logging_steps,
        "fsdp_bytes": 3 * 2 * c.parameters * (c.gpus - 1) / c.gpus,
    }


def markdown(cluster: Cluster) -> str:
    """The numbers as a table."""
    found, c = penalty_on_paper(cluster), cluster
    lines = [
        ("sites", f"{found['sites']:.0f}"),
        ("kept for the backward pass", f"{found['kept_bytes'] / GIB:.2f} GiB"),
        ("the same under gradient checkpointing", f"{found['kept_bytes_checkpointed'] / GIB:.2f} GiB"),
        ("memory traffic", f"{found['traffic_bytes'] / GIB:.1f} GiB, {1e3 * found['traffic_seconds']:.1f} ms"),
        ("arithmetic", f"{found['operations']:.3g} of {found['operations_of_model']:.3g} operations"),
        (f"a step of the model, at {c.used:.0%} of the GPU's arithmetic", f"{found['step_seconds']:.2f} s"),
        ("time with the penalty / without", f"{found['time_ratio']:.4f}"),
        (f"messages, with a log every {c.logging_steps} steps", f"{found['messages']:.1f}, {found['message_bytes']:.0f} bytes"),
        ("what FSDP sends without us", f"{found['fsdp_bytes'] / GIB:.1f} GiB"),
    ]
    title = (
        f"{c.parameters / 1e9:.1f}B parameters, {c.layers} layers of width {c.width}, {c.gpus} GPUs, {c.tokens:,} tokens each"
    )
    return "\n".join(
        [
            f"{title}; a GPU and step. The formulas are in benchmarks/on_paper.py.",
            "",
            "| what | |",
            "|---|---|",
            *(f"| {a} | {b} |" for a, b in lines),
        ]
    )


if __name__ == "__main__":
    print(markdown(Cluster()))
