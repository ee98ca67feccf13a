"""Makes the endpoint of this folder importable, here and for the tests of the command."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
