"""Hydra YAML, found as `pkg://robot_rl.configs`."""
