"""What `simulate --restart FILE` goes on from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstepper.errors import UserError, require
from jaxstepper.physics.tables import Bodies
from jaxstepper.runs.recordings import Recording, read_recording
from jaxstepper.settings.config import DEFAULTS, OPTIONS, flag_of, read_option
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import to_dict
from jaxstepper.settings.values import setting

# Options that change no state of a rollout, which may be others when it goes on.
FREE = {
    *("duration", "steps", "Nperiod", "stop_at_period", "output", "output_every", "output_times"),
    *("restart", "quiet", "debug", "device", "compilation_cache", "movie", "movie_dir"),
    *("movie_format", "movie_max_frames", "movie_fps", "movie_dpi", "wandb", "wandb_project"),
    *("wandb_name", "wandb_artifacts", "distributed", "coordinator", "num_processes"),
    *("process_id", "checkpoint_dir", "save_name"),
}


@dataclass(frozen=True)
class Source:
    """A recorded rollout to go on with."""

    path: str
    recording: Recording

    def request(self, request: Request) -> Request:
        """The request with the options that the rollout was recorded with.

        Raises:
            UserError: one was set to another value, or nothing says how far to go.
        """
        where = f"--restart {self.path}"
        if not (request.sets("duration") or request.sets("steps")):
            raise UserError(f"{where}: say how far from its start: --duration T or --steps N")
        sources = dict(request.sources)
        for name, raw in self.recording.about["given"].items():
            if name not in OPTIONS or name in FREE:
                continue
            value = read_option(name, raw, self.path)
            if request.sets(name) and getattr(request.config, name) != value:
                mine = setting(name, request.source(name), getattr(request.config, name))
                raise UserError(
                    f"{mine}: {self.path} was recorded with {_words(raw)}; leave it out"
                )
            request = request.replace(**{name: value})
            sources[name] = flag_of(name)
        others = set(request.sources) - FREE - set(self.recording.about["given"])
        for name in sorted(others):
            if getattr(request.config, name) != DEFAULTS[name]:
                mine = setting(name, request.source(name), getattr(request.config, name))
                raise UserError(f"{mine}: {self.path} was recorded without it; leave it out")
        return Request(request.config, sources)

    @property
    def bodies(self) -> Bodies:
        """The bodies with which each of its systems began."""
        tables = []
        for leaves in self.recording.going:
            columns = (leaves["first/mass"][:, None], leaves["first/position"])
            tables.append(np.hstack([*columns, leaves["first/velocity"]]).astype(np.float64))
        return Bodies(np.stack(tables), self.recording.names)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_source(request: Request) -> Source:
    """The rollout that `--restart` names.

    Raises:
        UserError: it cannot be read, or cannot be gone on with.
    """
    path = str(request.config.restart)
    recording = read_recording(path)
    goes_on = all(recording.going)
    require(
        "given" in recording.about or not goes_on,
        f"--restart {path}: was recorded by a program, which can go on with it (go_on); or start "
        f"anew from its end: --ic-path {path}",
    )
    require(
        goes_on,
        f"--restart {path}: does not hold what a rollout goes on from; start anew from its end: "
        f"--ic-path {path}",
    )
    return Source(path, recording)


def given_options(request: Request) -> dict[str, Any]:
    """The options that were set and shape the rollout, and the seed, as plain values."""
    values = to_dict(request.config)
    kept = [name for name in values if name == "seed" or (request.sets(name) and name not in FREE)]
    return {name: values[name] for name in kept}
