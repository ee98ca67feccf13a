"""Settings of a robot behind ROS 2 as an environment."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from robot_rl.checks import require_choice, require_minimum, require_range, require_success_reward
from robot_rl.errors import InputError


@dataclass(kw_only=True)
class Ros2EnvironmentConfig:
    """A robot behind ROS 2, or a simulated one in its place. See docs/robot.md."""

    robot: str = MISSING  # a description: a name in configs/robot, or the path of a file
    simulated: bool = False  # start a MuJoCo arm and a governor for it; else they have to be running
    simulation: dict[str, Any] = field(default_factory=dict)
    """Of the simulated arm: latency_s, position_noise, start_spread, target_spread, reach_m, image_size, ..."""
    mode: str = "realtime"
    """`realtime`, on a fixed grid of time; `lockstep`, for simulated arms, whose time goes on when a step asks."""
    action: str = "velocity"
    """What an action is, at the end of the control period: the joints' `velocity`; `delta`, how far they are to move;
    `position`, where they are to be; `twist`, how the tool is to move and turn in the base frame, in m/s and rad/s. It
    is reported, and learned from, as the governor let it through."""
    speed_scale: float = 0.15
    """Bounds of `velocity` and `delta`, as a share of the joints' largest velocities; of `twist`, of the tool's."""
    observation: list[str] | None = None
    """Keys of the description: joint_position, joint_velocity, tool_pose, wrench, names of points and of cameras; None
    takes all but the cameras."""
    image_size: int = 64  # pixels: images are cut to a square and scaled
    action_history: int = 0
    """Commands of so many steps back, as the governor let them through, observed as `action_history`: a delay hides
    what is under way. A policy that was trained with it needs it; while the robot is only watched, it is zeros."""
    maximum_steps: int = 100
    terminate_on_success: bool = False
    success_reward: list[float] | None = None
    """[reward without success, reward with success] in place of the outcome topic's."""
    reset: str = "home"
    """`home`: the robot goes to its home pose; `person`: and somebody says `ready` in the operator's terminal;
    `service`: a simulated arm begins the episode of the seed."""
    transport: str = "loopback"
    """`loopback`: processes on this machine alone; `inherited`: as the shell says, for a robot on the network; `none`:
    the simulated arm and its governor in this process, without ROS, in lockstep."""
    domain_id: int | None = None  # of ROS; None takes ROS_DOMAIN_ID, or a free one where the robot is simulated
    patience_s: float = 60.0  # for answers of processes
    person_patience_s: float = 600.0  # for people: to clear a fault, to put the scene back

    def __post_init__(self) -> None:
        require_choice(self.mode, ("realtime", "lockstep"), "environment.mode")
        require_choice(self.action, ("velocity", "delta", "position", "twist"), "environment.action")
        require_choice(self.reset, ("home", "service", "person"), "environment.reset")
        require_choice(self.transport, ("loopback", "inherited", "none"), "environment.transport")
        require_range(self.speed_scale, 1e-3, 1.0, "environment.speed_scale")
        require_minimum(self.image_size, 8, "environment.image_size")
        require_minimum(self.action_history, 0, "environment.action_history")
        require_minimum(self.maximum_steps, 1, "environment.maximum_steps")
        require_range(self.patience_s, 1.0, 3600.0, "environment.patience_s")
        require_range(self.person_patience_s, 0.0, 1e6, "environment.person_patience_s")
        require_success_reward(self.success_reward, "environment.success_reward")
        if self.domain_id is not None:
            require_range(self.domain_id, 0, 101, "environment.domain_id")
        if self.transport == "none" and not (self.simulated and self.mode == "lockstep" and self.reset == "service"):
            raise InputError(
                "environment.transport=none is a simulated arm in lockstep: add environment.simulated=true "
                "environment.mode=lockstep environment.reset=service"
            )
        if self.simulated and (self.domain_id is not None or self.transport == "inherited"):
            raise InputError(
                "environment.simulated=true starts the robot in a ROS domain of its own on this machine: leave "
                "environment.domain_id and environment.transport alone"
            )
        if not self.simulated and (self.mode == "lockstep" or self.simulation):
            raise InputError(
                "environment.mode=lockstep and environment.simulation are of simulated robots: add "
                "environment.simulated=true"
            )
