"""The objective of training on windows: a `WindowPlan`, and what the trainer asks of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxstepper.errors import require
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.initial_conditions import orbital_period
from jaxstepper.training.objective import Objective, Outcome, Part
from jaxstepper.training.windows.draws import REFERENCE_STEPS, in_units
from jaxstepper.training.windows.epoch import WindowMetrics, epoch_metrics, iterate, next_epoch
from jaxstepper.training.windows.plan import WindowPlan
from jaxstepper.training.windows.state import WindowState, init_window_state


@dataclass(frozen=True)
class Windows(WindowPlan, Objective):
    """Train through all steps of a window of time: few steps, a small largest energy error.

    A unit of work is an iteration: an optimiser step on a batch of windows.
    """

    chosen_by: ClassVar[tuple[str, ...]] = ("relative_work", *WindowMetrics._fields[1:])

    def init(
        self, tables: np.ndarray, key: Array, variables: Variables | None = None
    ) -> WindowState:
        """The state before the first epoch, of systems `[M, N, 1 + 2 D]`.

        Raises:
            UserError: spans are periods, and a system is not a bound pair.
        """
        periods = [self.span or orbital_period(table) for table in tables]
        require(None not in periods, "windows in periods need bound pairs; set the span instead")
        larger = self.softening_spread ** np.linspace(0, 1, len(tables))
        spans = np.array(periods) * larger**1.5
        start = jax.jit(init_window_state, static_argnums=0)
        sizes = jnp.asarray(larger)
        enlarged = jax.vmap(in_units)(jnp.asarray(tables), jnp.ones_like(sizes), sizes)
        return start(self, enlarged, spans, key, variables)

    # Functions from the files beside.
    chunk = iterate
    metrics = staticmethod(epoch_metrics)
    next_epoch = next_epoch

    def line(self, metrics: Mapping[str, Any]) -> str:
        """Loss, work and error."""
        return (
            f"loss={metrics['loss']:.4f}, work/free_fall={metrics['relative_work']:.3f}, "
            f"error/tolerance={metrics['error_ratio']:.3g}"
        )

    def summary(self, state: WindowState, metrics: Mapping[str, Any]) -> list[Outcome]:
        """What the last epoch came to."""
        if not metrics:
            return []
        work = metrics["relative_work"]
        return [
            Outcome("final/loss", metrics["loss"]),
            Outcome("final/relative_work", work, "final work / free fall's", f"{work:.3f}"),
            Outcome("final/error_ratio", metrics["error_ratio"]),
        ]

    def wandb_keys(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Under `window/`."""
        times = ("epoch", "epoch_time")
        return {name if name in times else f"window/{name}": x for name, x in metrics.items()}

    def part(self, state: WindowState) -> Part:
        """How far the current epoch has come."""
        return Part("iterations", int(state.progress.iteration), self.iterations, "")

    def longest_call(self, bodies: int, systems: int) -> tuple[float, float]:
        """An iteration (windows forwards, again, and back), or free fall before the first."""
        steps = 5.0 * self.batch * self.steps
        before = 2.0 * systems * REFERENCE_STEPS
        return max(steps, before) * bodies**2, steps * (bodies if self.features.is_native else 1)
