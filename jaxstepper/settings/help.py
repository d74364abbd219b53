"""What `--help` shows of the options of `train`, `simulate` and `both`; `--help-all` shows all."""

from jaxstepper.settings.option import Command

COMMON: dict[Command, tuple[str, ...]] = {
    "train": (
        "objective",
        "epochs",
        "lr",
        "hidden_dims",
        "feature_type",
        "scheme",
        "multi_orbit",
        "num_orbits",
        "draw",
        "e_min",
        "e_max",
        "num_particles",
        "ic_path",
        "softening",
        "seed",
        "save_name",
        "resume",
        "overwrite",
        "model_path",
        "device",
        "wandb",
        "quiet",
    ),
    "simulate": (
        "eccentricity",
        "semi_major",
        "ic_path",
        "units",
        "num_particles",
        "seed",
        "softening",
        "model_path",
        "tolerance",
        "controller",
        "eta",
        "dt",
        "symmetrize",
        "scheme",
        "individual",
        "duration",
        "Nperiod",
        "steps",
        "output",
        "output_every",
        "restart",
        "movie",
        "device",
        "quiet",
    ),
    "both": (
        "objective",
        "epochs",
        "lr",
        "hidden_dims",
        "feature_type",
        "multi_orbit",
        "num_orbits",
        "num_particles",
        "eccentricity",
        "ic_path",
        "softening",
        "seed",
        "save_name",
        "symmetrize",
        "tolerance",
        "duration",
        "steps",
        "output",
        "movie",
        "device",
        "quiet",
    ),
}
"""The options that most people want, in the order in which `--help` shows them."""

EXAMPLES: dict[Command, tuple[str, ...]] = {
    "train": (
        "jaxstepper train --config quick_start",
        "jaxstepper train --epochs 5 --num-particles 3 --seed 1 --save-name demo",
        "jaxstepper train --resume --save-name demo --epochs 20",
    ),
    "simulate": (
        "jaxstepper simulate -e 0.9 --model-path kepler --symmetrize --tolerance 1e-3",
        "jaxstepper simulate --ic-path bodies.csv --duration 10 --controller free-fall",
        "jaxstepper simulate -e 0.8 --controller free-fall --scheme chin --output orbit.npz",
    ),
    "both": (
        "jaxstepper both --epochs 10 --num-particles 3 --seed 1 --save-name demo --steps 50",
        "jaxstepper both --config quick_start",
        "jaxstepper both --epochs 10 --num-particles 3 --history-len 5 --output demo.npz",
    ),
}

ALONE = {"eccentricity": "0.9"}
"""The values of options whose flag may stand alone."""

UNSET = {"eccentricity": "none; 0.9 with -a", "semi_major": "none; 1.0 with -e"}
"""What to say of the defaults of options that have one only beside others."""

BRIEF = {
    "units": "of the bodies and of all else, such as au yr Msun; G = 1 without",
    "output": "write the trajectory to this .npz or .h5 file, as it comes",
    "output_every": "time between the states that are written",
    "restart": "go on with the rollout that this file of --output records",
    "objective": "two-phase training on single steps (gate), training through whole orbits "
    "(window), or of a criterion for individual steps (evolution)",
    "feature_type": "what the network sees: orbital, of pairs, and encounters, of many bodies, are "
    "free of scale and what objective window takes",
    "scheme": "how a step is taken: second order (leapfrog) or fourth (chin, bm4, hermite)",
    "num_orbits": "how many systems",
    "draw": "what --multi-orbit draws",
    "controller": "the step-size rule: a constant dt, one of the literature, or the network",
    "eta": "factor of the rule: smaller for smaller errors",
    "dt": "the constant dt, -1 for 0.01",
    "tolerance": "energy error that a network aims for",
    "individual": "each body takes steps of its own: --scheme hermite --controller aarseth",
    "ic_path": "file of bodies: columns mass, position, velocity, or as its header names them",
    "duration": "time to simulate",
    "Nperiod": "periods of a bound pair to simulate; 0 for --steps",
    "steps": "steps to simulate, -1 for 1000",
    "movie": "make a movie",
    "model_path": "a trained network: a name of jaxstepper models, a run, RUN/EPOCH or FILE.pt",
}
"""Help in a few words, for `--help`; `--help-all` has it in full."""
