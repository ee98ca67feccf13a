"""Steps with a joint at its limit are counted, and go into what is left of an episode."""

import mujoco
import pytest

from robot_rl.environment import limit_hits_in
from robot_rl.loops.evaluate import EpisodeResult
from robot_rl.loops.rollout import run_episode
from robot_rl.sim.action_history import ActionHistory
from robot_rl.sim.gap_env import at_limit
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert

HINGE = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body>
      <joint name="hinge" type="hinge" axis="0 1 0" limited="true" range="-1 1"/>
      <geom type="capsule" size="0.02" fromto="0 0 0 0 0 -0.5"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize(("angle_rad", "pressed"), [(0.0, False), (0.9, False), (1.05, True), (-1.05, True)])
def test_a_joint_beyond_its_limit_is_pressed_against_it(angle_rad: float, pressed: bool) -> None:
    model = mujoco.MjModel.from_xml_string(HINGE)
    data = mujoco.MjData(model)
    data.qpos[0] = angle_rad
    mujoco.mj_forward(model, data)
    assert at_limit(data) is pressed


class Counting(OneJointEnvironment):
    """Counts every second step."""

    steps = 0

    @property
    def limit_hits(self) -> int:
        return self.steps // 2

    def step(self, action):
        self.steps += 1
        return super().step(action)


def test_an_episode_keeps_what_was_counted_and_says_nothing_where_nobody_counts() -> None:
    counted = EpisodeResult.of(run_episode(Counting(), OneJointExpert(), seed=0))
    assert counted.limit_hits == 10
    assert counted.to_json()["limit_hits"] == 10
    plain = EpisodeResult.of(run_episode(OneJointEnvironment(), OneJointExpert(), seed=0))
    assert plain.limit_hits is None
    assert "limit_hits" not in plain.to_json()


def test_the_count_is_seen_through_the_history_of_commands() -> None:
    inner = Counting()
    inner.steps = 7
    assert limit_hits_in(ActionHistory(inner, 2)) == 3
    assert limit_hits_in(ActionHistory(OneJointEnvironment(), 2)) is None
