"""The list of phases that is a run.

The switch from offline to online is the step from one phase of the list to the next; nothing else knows of it.
"""

from collections.abc import Mapping
from typing import Any

from robot_rl import checkpoint
from robot_rl.algorithms import with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.config import PhaseConfig
from robot_rl.errors import InputError
from robot_rl.loops.beside import keeping_time, run_beside
from robot_rl.loops.domains import judged, weigh_domains
from robot_rl.loops.offline import run_offline
from robot_rl.loops.online import run_online
from robot_rl.loops.run import ACTING, Run
from robot_rl.replay.buffer import ReplayBuffer


def run_phases(run: Run) -> bool:
    """Run what is left of the phases; False when a stop was requested and the state was saved instead."""
    names, progress = list(run.phases), run.progress
    while progress.phase_index < len(names):
        progress.phase = names[progress.phase_index]
        phase = run.phases[progress.phase]
        interact = phase.interact != "none"
        notes = [*apply_settings(run, phase), *alone_from_failure(run, phase)]
        for note in notes:
            run.display.say(note)
        if not progress.phase_begun:
            progress.phase_begun = True
            run.recorder.event("phase_start", progress, interact=interact, **as_details(notes))
            if phase.reset:
                checkpoint.reset_parts(run.agent, run.fresh_agent(progress.phase_index), phase.reset)
        run.display.begin_phase(progress.phase, progress.phase_step, phase.steps, interact)
        if run.execution.mode in ("compiled", "compiled_graphed") and phase.updates_per_step > 0:
            run.display.say("Compiling the update at its first use takes from seconds to minutes.")
        run.begin_rates()
        if interact:
            finished = run_online(run, phase) if run.beside is None else run_beside(run, phase)
        else:
            finished = run_offline(run, phase)
        run.tick()
        if finished:
            with keeping_time(run):  # the policy plays the robot there, too
                finished = run.evaluate_at_end(last=progress.phase_index == len(names) - 1)
        if not finished:
            run.recorder.event("interrupt", progress)
            run.save()
            return False
        found = judged(run, phase)
        for note in found:
            run.display.say(note)
        run.recorder.event("phase_end", progress, **as_details(found))
        progress.phase_index += 1
        progress.phase_step, progress.phase_begun = 0, False
        run.save()
    return True


def as_details(notes: list[str]) -> dict[str, Any]:
    """What an event holds of them."""
    return {"notes": notes} if notes else {}


def apply_settings(run: Run, phase: PhaseConfig) -> list[str]:
    """Make agent and sources what the phase wants, whatever they were before.

    Returns:
        what the phase does otherwise than its settings say, a sentence each.

    Raises:
        InputError: whole chunks of actions are wanted, and no episode is long enough for one; or a learner that tells
            robot and simulator apart has only one of them.
    """
    # Relative to the run's configuration, not to the phase before: what a phase does not name is as in the file.
    run.agent.config = with_overrides(run.base_config, phase.algorithm)
    give_what_is_needed(run.agent, run.sources)
    environment = run.robot if phase.robot else run.environment
    if phase.interact != "none" and environment is not None and "valid" not in run.agent.needs:
        steps, limit = run.policy.action_chunk, environment.maximum_steps
        if steps > limit:
            raise InputError(
                f"replay.action_chunk={steps}, but an episode has {limit} steps at most, so none holds a whole chunk: "
                "set it lower"
            )
    return weigh_domains(run, phase)


def alone_from_failure(run: Run, phase: PhaseConfig) -> list[str]:
    """What is to be expected of a policy that never succeeded, and from here on learns from its own deeds alone.

    Returns:
        a sentence where the last evaluation saw no success, and no data set has a share in this phase or a later one.
    """
    progress = run.progress
    fails = progress.last_success == 0.0 and phase.interact == "policy" and progress.environment_steps == 0
    coming = list(run.phases.values())[progress.phase_index :]
    drawn = {name for each in coming if each.updates_per_step for name, share in each.shares.items() if share != 0}
    if not fails or drawn - set(ACTING):
        return []
    return [
        f"phases.{progress.phase}: the policy it begins with succeeded in no episode of the last evaluation, and from "
        "here on it learns from what it does itself alone. Where success is what is rewarded, it may never see any: "
        "give the phase before more steps or better data, or a data set a share from here on, as RLPD has it "
        "(phases.NAME.shares={online: 0.5, offline: 0.5})"
    ]


def give_what_is_needed(agent: Agent, sources: Mapping[str, ReplayBuffer]) -> None:
    """Make batches hold what the agent asks for under its present settings."""
    for name, source in sources.items():
        source.recorded, source.with_recorded = name not in ACTING, "recorded" in agent.needs
        source.with_domain = "real" in agent.needs
        source.complete_only = "monte_carlo_return" in agent.needs
        source.with_next_action = "next_action" in agent.needs
        source.allow_cut_chunks("valid" in agent.needs)
