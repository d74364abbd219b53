"""What `simulate` does where all bodies of a system share their steps."""

from functools import partial

from jaxstepper.commands.clock_checks import check_counts
from jaxstepper.commands.outcome import Outcome, Outcomes, words_of_many
from jaxstepper.commands.output_size import check_size, constant_dt
from jaxstepper.commands.recorder import Plan, open_recorder
from jaxstepper.machine.devices import choose_mesh
from jaxstepper.machine.processes import on_main
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.bars import open_bars, part_of
from jaxstepper.stepping.many_rollouts import roll_out
from jaxstepper.stepping.output import begin, record_on
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.rollout import Rollout, blown_up_at, force_evaluations
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.watch import Watch


def take_shared_steps(plan: Plan, rule: Rule) -> Outcomes:
    """Rolls out a rule, and writes what is asked for.

    Raises:
        UserError: the rule cannot step the bodies, or a file cannot be written.
    """
    config, gravity, starts = plan.config, plan.gravity, plan.starts
    dt = constant_dt(rule)
    if dt is not None:
        check_counts(plan.request, dt, plan.spans)
    on_main(partial(check_size, config, rule, plan.limits))
    paths: list[Trajectory] = []
    with open_bars(config.quiet) as bars:
        tell = partial(bars.show_share, words_of_many(starts))
        tell(0.0)
        if plan.is_recorded:
            times = [plan.times(i) for i in range(len(starts))]
            with open_recorder(plan, tell, bars.close) as recorder:
                goings = [
                    plan.going(i, begin(rule, gravity, start, limits))
                    for i, (start, limits) in enumerate(zip(starts, plan.limits, strict=True))
                ]
                recorder.begin(goings)
                for i, limits in enumerate(plan.limits):
                    goings[i] = record_on(
                        rule,
                        gravity,
                        goings[i],
                        limits,
                        partial(recorder.keep, i),
                        times[i],
                        part_of(recorder.report, i, len(starts)),
                    )
            paths = recorder.paths()
            firsts = [each.first for each in goings]
            ends = [(each.rollout, each.watch) for each in goings]
        else:
            mesh, firsts = choose_mesh(len(starts)), starts
            ends = roll_out(mesh, rule, gravity, starts, plan.limits, tell)

    def outcome(first: Particles, end: Rollout, watch: Watch) -> Outcome:
        steps, searched = int(end.steps), int(rule.scheme.searched(end.carried))
        return Outcome(
            first,
            end.particles,
            steps,
            int(end.status),
            force_evaluations(rule, steps, searched),
            watch,
            partial(blown_up_at, rule, gravity, first, steps),
        )

    return [outcome(first, *end) for first, end in zip(firsts, ends, strict=True)], paths
