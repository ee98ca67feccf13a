"""robot_rl: offline-to-online reinforcement learning for robots."""

__version__ = "0.1.0"
