"""What `robot_rl.datasets.validate` is made of: facts that one pass over a store collects, and checks on them."""
