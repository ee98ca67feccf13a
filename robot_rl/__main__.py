"""`python -m robot_rl`: the same as the command `robot-rl`."""

import sys

from robot_rl.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
