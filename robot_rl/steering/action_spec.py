"""What actions mean, declared by a policy and by a critic, and compared before either is asked about anything.

A critic that judges in other units, at another rate or under another convention of the gripper still gives numbers:
nothing later would notice.
"""

from dataclasses import dataclass

import numpy as np

from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Array

RANGE_TOLERANCE = 1e-3
"""Of a range's width: so far may the ends of two ranges that mean the same lie apart."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ActionSpec:
    """The actions of one policy or of one critic; never implicit.

    Between the two stand units, not normalised numbers: the proposer un-normalises by its `scale`, the scorer
    normalises by its own.
    """

    size: int  # A
    chunk: int  # H, steps of one decision
    control_period_s: float | None
    semantics: str | None  # such as "osc_pose_delta"; None is not declared, and fits only what is not either
    scale: ActionScale  # between units and [-1, 1]
    rotation: str = "none"  # such as "rpy", "axis_angle", "rotation_6d"
    gripper: str = "none"  # such as "open=1,close=0"

    def __post_init__(self) -> None:
        if self.size < 1 or self.chunk < 1:
            raise InputError(f"an action of size {self.size} in chunks of {self.chunk} steps: both must be at least 1")
        if self.scale.low.shape != (self.size,):
            raise InputError(f"bounds have shape {self.scale.low.shape}, but an action has size {self.size}")

    @staticmethod
    def from_spec(spec: Spec, chunk: int = 1) -> "ActionSpec":
        """The actions of an environment's or a run's spec, decided `chunk` steps at a time.

        Metadata `rotation` and `gripper` of the spec say the conventions where they are declared.

        Raises:
            InputError: the spec has no finite bounds.
        """
        return ActionSpec(
            size=spec.action.shape[0],
            chunk=chunk,
            control_period_s=spec.control_period_s,
            semantics=spec.action_semantics,
            scale=ActionScale.from_spec(spec.action),
            rotation=str(spec.metadata.get("rotation", "none")),
            gripper=str(spec.metadata.get("gripper", "none")),
        )

    def normalized(self, actions: Array) -> Array:
        """Units to [-1, 1] without cutting: what lies outside shows. Shapes: (*, A) -> (*, A), float64."""
        scaled: Array = 2.0 * (np.asarray(actions, np.float64) - self.scale.low) / self.width - 1.0
        return scaled

    @property
    def width(self) -> Array:
        """High minus low. Shapes: (A,)."""
        return np.asarray(self.scale.high - self.scale.low)


def require_match(
    proposer: ActionSpec, scorer: ActionSpec, *, score_steps: int | None = None, narrowest: float = 0.5
) -> None:
    """Refuse a scorer that would judge something else than what the proposer proposes.

    Args:
        proposer: what is proposed.
        scorer: what is judged; its range must hold the proposer's.
        score_steps: the scorer sees only so many first steps of a chunk (V-GPS: 1); None: the whole chunk.
        narrowest: least share of the scorer's range that the proposer's spans in each dimension; less is taken for
            another unit. Lower it where the bounds of the critic's data are known to be wide.

    Raises:
        InputError: names the fact, both values and the remedy.
    """

    def refuse(fact: str, found: object, wanted: object, remedy: str) -> InputError:
        return InputError(f"steering: the policy's actions have {fact} {found}, those of the critic {wanted}: {remedy}")

    if proposer.size != scorer.size:
        raise refuse("size", proposer.size, scorer.size, "choose a critic that was trained on the same actions")
    for fact in ("semantics", "rotation", "gripper"):
        found, wanted = vars(proposer)[fact], vars(scorer)[fact]
        if found != wanted:
            raise refuse(fact, repr(found), repr(wanted), "declare what they are on both sides, or convert one of them")
    ours, theirs = proposer.control_period_s, scorer.control_period_s
    if (ours is None) != (theirs is None) or (ours is not None and theirs is not None and not np.isclose(ours, theirs)):
        raise refuse("control_period_s", ours, theirs, "a critic judges motions of its own rate only")
    judged = proposer.chunk if score_steps is None else score_steps
    if judged > proposer.chunk:
        raise refuse("chunks of", f"{proposer.chunk} steps", f"score_steps={judged}", "ask for no more than there are")
    if judged != scorer.chunk:
        remedy = (
            f"set score_steps={scorer.chunk}" if scorer.chunk < proposer.chunk else "use a critic of shorter chunks"
        )
        raise refuse("chunks, of which are judged,", f"{judged} steps", f"{scorer.chunk} steps", remedy)
    slack = RANGE_TOLERANCE * scorer.width
    low, high = proposer.scale.low, proposer.scale.high
    outside = (
        (low < scorer.scale.low - slack)
        | (high > scorer.scale.high + slack)
        | (proposer.width < narrowest * scorer.width)
    )
    if outside.any():
        at = int(np.argmax(outside))
        found, wanted = (f"[{each.low[at]:g}, {each.high[at]:g}]" for each in (proposer.scale, scorer.scale))
        raise refuse(
            f"in dimension {at} the range",
            found,
            wanted,
            "these are different units or a different normalisation; give both the bounds of the units that are sent",
        )
