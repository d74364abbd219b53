"""Progress in a Jupyter notebook, where there is no terminal to draw bars on."""

import sys
import time
from typing import Any

from jaxstepper.reporting.bars import REFRESHES_PER_SECOND, Bars

BLOCKS = 30


class NotebookBars(Bars):
    """Each bar is a line of one output of the cell, which changes in place and goes at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[str, str] = {}
        self._output: Any = None
        self._shown_at = -1.0

    @property
    def are_shown(self) -> bool:
        """There is a notebook."""
        return True

    def close(self) -> None:
        """Empties the output."""
        self._lines.clear()
        self._draw(at_once=True)

    def hide(self, name: str) -> None:
        """Removes the bar of this name, if it exists."""
        self._lines.pop(name, None)

    def _set(self, name: str, done: float, total: float | None, count: str, figures: str) -> None:
        full = round(BLOCKS * done / total) if total else 0
        bar = "█" * full + "░" * (BLOCKS - full) if total else ""
        self._lines[name] = f"{name} {bar} {count}  {figures}".rstrip()
        self._draw()

    def _draw(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._shown_at < 1 / REFRESHES_PER_SECOND:
            return
        self._shown_at = now
        content = {"text/plain": "\n".join(self._lines.values())}
        if self._output is None:
            if self._lines:
                from IPython.display import display

                self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook; it has imported IPython then."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"
