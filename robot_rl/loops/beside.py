"""The online loop whose learner is a process of its own: act, record, tell; take new weights between two steps.

It is `run_online` but for the updates. What it never does within an episode is wait for the learner: messages go by
threads, weights are taken when they are there. Checkpoints are written between two episodes, when a state of the
learner has come that was asked for before.

| what happens | the loop |
|---|---|
| the learner is slow | goes on; what the learner is behind with is made up for at the end of the phase |
| it dies, has diverged, or is silent for `patience_s` | says so, then does as `when_lost` says |
| this process dies | the next one finds the recorded steps; the learner ends too |
"""

from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from robot_rl import checkpoint
from robot_rl.config import PhaseConfig
from robot_rl.environment import Environment, Live, tell_experience
from robot_rl.loops.experience import Experience
from robot_rl.loops.learning import owed_for, weights_of
from robot_rl.loops.online import choose_action, tell_episode
from robot_rl.loops.pipe import arrays
from robot_rl.loops.realtime import collect, steady
from robot_rl.loops.remote import RemoteLearner, Snapshot
from robot_rl.loops.run import ACTING, Run, become
from robot_rl.loops.timing import Timings, summarize_all
from robot_rl.policy import drop_chunk
from robot_rl.types import Metrics

COLUMNS = ("period", "decision", "exchange")
"""Between two steps of an episode; from the observation to the action; of those, for taking new weights."""
RECEIVING = ("dds.",)  # threads of Fast DDS, for which the loop waits


def run_beside(run: Run, phase: PhaseConfig) -> bool:
    """A phase that acts, with its learner in another process; False when a stop was requested, or the learner is lost.

    `run.problem` then says whether it is.
    """
    assert run.beside is not None
    environment = run.robot if phase.robot else run.environment
    if environment is None:
        raise RuntimeError("a phase that interacts needs an environment")
    with ExitStack() as stack:
        learner: RemoteLearner | None = None
        if phase.updates_per_step > 0:
            learner = _started(run, phase)
            stack.enter_context(closing(learner))
            run.display.say("Waiting for the learner's process; the robot stands.")
            begun = learner
            if not learner.wait(lambda: begun.ready, run.stop_requested):
                return _settle(run, phase, learner, finished=False)
        loop = _Loop(run=run, phase=phase, environment=environment, learner=learner)
        with keeping_time(run) as problems:
            for problem in problems:
                run.display.say(problem)
            finished = loop.run_episodes()
        times = summarize_all(loop.timings.columns())
        if times:
            counts = dict(environment.counts) if isinstance(environment, Live) else {}
            run.recorder.event("timing", run.progress, {}, times=times, counts=counts)
        return _settle(run, phase, learner, finished=finished)


def keeping_time(run: Run) -> AbstractContextManager[list[str]]:
    """Inside, the thread that acts keeps its time as well as it can, where the run learns beside it."""
    if run.beside is None:
        return nullcontext([])
    return steady(run.beside.settings.priority, RECEIVING, others_follow=True)


def _settle(run: Run, phase: PhaseConfig, learner: RemoteLearner | None, *, finished: bool) -> bool:
    """Nothing moves any more: let the learner catch up, and take over what it has become."""
    if learner is None:
        return finished
    if finished and learner.check() is None:
        wanted = run.progress.phase_step
        finished = learner.wait(
            lambda: learner.facts["seen"] >= wanted and not learner.facts["owed"], run.stop_requested
        )
    if learner.check() is None:
        before = learner.snapshot
        learner.wait(lambda: not learner.asked)  # one that was asked for earlier
        learner.ask()
        learner.wait(lambda: not learner.asked and learner.snapshot is not before)
    _become(run, phase, learner.snapshot)
    if (lost := learner.check()) is not None:
        run.problem = (
            f"{lost}. All that was recorded is kept, and the agent is that of its last whole state, after "
            f"{run.progress.updates} updates; {run.progress.owed_updates} updates are still to be made"
        )
        run.recorder.event("learner_lost", run.progress, why=lost)
        run.display.say(run.problem)
        return False
    return finished


@dataclass(kw_only=True)
class _Loop:
    """The episodes of a phase."""

    run: Run
    phase: PhaseConfig
    environment: Environment
    learner: RemoteLearner | None

    def __post_init__(self) -> None:
        run = self.run
        assert run.beside is not None
        self._settings = run.beside.settings
        self._experience: Experience = run.beside.experience[self.phase.acts_for]
        self._acting: dict[str, Tensor] = weights_of(run.agent)
        self._version = 0  # of the weights that act
        self._told_lost = False
        self._saved: Snapshot | None = None if self.learner is None else self.learner.snapshot
        self.timings = Timings(COLUMNS, self.phase.steps)

    def run_episodes(self) -> bool:
        """Until the phase is over; False when a stop was requested, or the learner is lost and that is to stop."""
        run, phase = self.run, self.phase
        while run.progress.phase_step < phase.steps:
            if run.should_stop() or self._stop_as_lost():
                return False
            self._save_if_due()
            collect()
            self._run_episode()
        return not self._stop_as_lost()

    def _run_episode(self) -> None:
        run, phase, environment, learner = self.run, self.phase, self.environment, self.learner
        progress, replay, clock = run.progress, run.sources[phase.acts_for], run.clock
        tell_experience(environment, progress.environment_steps)
        seed, number = run.seeds.integer("episode", progress.episodes), progress.episodes
        step = environment.reset(seed=seed)
        run.policy.reset()
        name = f"training episode {number}"
        replay.begin(step.observation, name=name)
        self._experience.begin(step.observation, {"seed": seed, "phase": progress.phase, "training_episode": number})
        if learner is not None:
            learner.first(step.observation, name)
        progress.episodes += 1
        episode_return, length, success = 0.0, 0, False
        before = -1
        while not step.last and progress.phase_step < phase.steps and not self._stop_as_lost():
            began = clock.now_ns()
            self._take_weights()
            exchanged = clock.now_ns()
            action = choose_action(run, phase, environment, step.observation)
            decided = clock.now_ns()
            self.timings.add(began - before if before >= 0 else -1, decided - began, exchanged - began)
            before = began
            step = environment.step(action)
            if step.intervened:
                drop_chunk(run.policy)
            replay.add(step)
            self._experience.add(step, self._version)
            if learner is not None:
                learner.step(step)
            episode_return, length, success = episode_return + step.reward, length + 1, success or bool(step.success)
            progress.phase_step += 1
            progress.environment_steps += 1
            evaluations = progress.evaluations
            run.after_step(phase, self._metrics())
            if progress.evaluations != evaluations:
                before = -1
        replay.cut()
        if learner is not None:
            learner.cut()
        intervened = self._experience.end()
        if step.last:
            further = {"intervened": float(intervened), "weights_version": float(self._version)}
            tell_episode(run, phase, environment, step, episode_return, length, success, further)

    def _take_weights(self) -> None:
        """What the learner told last, all or nothing: this thread alone acts, and no other writes to the agent."""
        learner = self.learner
        if learner is None or learner.weights is None or learner.weights.version == self._version:
            return
        told = learner.weights
        with torch.no_grad():
            for key, tensor in self._acting.items():
                tensor.copy_(told.tensors[key])
        self.run.agent.updates = self.run.progress.updates = told.updates
        self._version = told.version

    def _metrics(self) -> Metrics:
        learner = self.learner
        if learner is None:
            return {}
        facts = learner.facts
        steps = owed_for(self.phase, facts["seen"], self.run.progress.phase_step)
        behind = {"learner/version": self._version, "learner/behind": facts["owed"] + steps}
        return {name: torch.tensor(value) for name, value in (learner.metrics | behind).items()}

    def _stop_as_lost(self) -> bool:
        if self.learner is None or self.learner.check() is None:
            return False
        acts = self._settings.when_lost == "act"
        if not self._told_lost:
            self._told_lost = True
            then = "the loop acts on with the last weights" if acts else "the episode ends here"
            self.run.display.say(f"{self.learner.lost}; learner.when_lost={self._settings.when_lost}: {then}")
        return not acts

    def _save_if_due(self) -> None:
        """Between two episodes: write what the learner has sent, or ask it for that."""
        run, learner = self.run, self.learner
        if learner is None:
            run.save_if_due()
        elif learner.snapshot is not self._saved:
            self._saved = learner.snapshot
            _become(run, self.phase, self._saved)
            run.tick()
            run.save()
            self._version = -1  # newer weights may have been in place
            self._take_weights()
        elif run.save_is_due() and learner.check() is None:
            learner.ask()


def _started(run: Run, phase: PhaseConfig) -> RemoteLearner:
    """A learner's process with all that the phase begins with."""
    assert run.beside is not None
    progress, agent = run.progress, run.agent
    tensors, state = checkpoint.pack_agent(agent)
    first = Snapshot(
        seen=progress.phase_step, owed=progress.owed_updates, updates=progress.updates, tensors=tensors, state=state
    )
    replays: dict[str, Any] = {}
    for name in ACTING:
        if name in run.sources:
            columns, facts = run.sources[name].state()
            replays[name] = {"tensors": arrays(columns), "state": facts, "real": run.sources[name].real}
    settings = {item.name: getattr(agent.config, item.name) for item in fields(agent.config)}
    changed = {name: value for name, value in settings.items() if value != getattr(run.base_config, name)}
    begin = {
        "config": run.origin["config"],
        "spec": run.origin["spec"],
        "phase": progress.phase,
        "overrides": changed,
        "agent": {"tensors": arrays(tensors), "state": state},
        "replays": replays,
        "seen": first.seen,
        "owed": first.owed,
        "updates": first.updates,
    }
    return RemoteLearner(run.beside.start, run.beside.settings, begin, first)


def _become(run: Run, phase: PhaseConfig, snapshot: Snapshot) -> None:
    """Make the run's agent what the learner's was, but for the generators, of which each process has its own."""
    become(run.agent, snapshot.tensors, snapshot.state)
    progress = run.progress
    progress.updates = snapshot.updates
    progress.owed_updates = snapshot.owed + owed_for(phase, snapshot.seen, progress.phase_step)


def take_in(run: Run, recorded: dict[str, int]) -> int:
    """Take in the episodes that were recorded after the checkpoint. Returns their steps.

    Args:
        run: restored from it.
        recorded: episodes of each store that it holds already.
    """
    assert run.beside is not None
    progress, names, total = run.progress, list(run.phases), 0
    for name, experience in run.beside.experience.items():
        for index in range(recorded.get(name, 0), len(experience)):
            episode = experience.episode(index)
            run.sources[name].append(episode)
            total += len(episode)
            progress.episodes += 1
            progress.environment_steps += len(episode)
            if progress.phase_index < len(names):
                phase = run.phases[names[progress.phase_index]]
                if phase.interact != "none" and phase.acts_for == name:
                    until = min(progress.phase_step + len(episode), phase.steps)
                    progress.owed_updates += owed_for(phase, progress.phase_step, until)
                    progress.phase_step = until
    return total
