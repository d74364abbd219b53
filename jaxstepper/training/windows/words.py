"""What training on windows says of itself."""

from collections.abc import Mapping
from typing import Any

from jaxstepper.training.objective import Outcome


def line(metrics: Mapping[str, Any]) -> str:
    """An epoch in a line."""
    return (
        f"loss={metrics['loss']:.4f}, work/free_fall={metrics['relative_work']:.3f}, "
        f"error/tolerance={metrics['error_ratio']:.2f}"
    )


def summary(metrics: Mapping[str, Any]) -> list[Outcome]:
    """What the last epoch came to."""
    if not metrics:
        return []
    work = metrics["relative_work"]
    return [
        Outcome("final/loss", metrics["loss"]),
        Outcome("final/relative_work", work, "final work / free fall's", f"{work:.3f}"),
        Outcome("final/error_ratio", metrics["error_ratio"]),
    ]


def wandb_keys(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch under their W&B keys."""
    times = ("epoch", "epoch_time")
    return {name if name in times else f"window/{name}": x for name, x in metrics.items()}
