"""Updates per second beside d3rlpy, TorchRL and a plain eager loop, and beside what the matrix products alone allow.

    python3.11 -m venv /tmp/venv_peers
    /tmp/venv_peers/bin/pip install torch==2.13.0        # first, and the same build as ours
    /tmp/venv_peers/bin/pip install d3rlpy torchrl
    python benchmarks/side_by_side.py --peers /tmp/venv_peers/bin/python [--only sac iql] [--compiled] [--bfloat16]

Every contestant is a process of its own with the same sizes, batch, data and threads, and samples its batches itself.
They take turns, a short while each, several times; medians count. Cases that `--output` already has are not run again,
so a stopped run goes on; leave nothing else running beside it. Without `--peers` only ours and the plain loop run.

The bound: products and operations are those of our update in plain layers under PyTorch's differentiation, counted by
`torch.utils.flop_counter`. One share is of that count over the rate of a product of 2048 x 2048 matrices, measured in
the same turns; the other of the time that the products of the update take one behind the other, without anything else.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "peers"
CASES = ("sac", "iql", "td3_bc", "redq", "cql", "calql", "calql_10", "bc", "awac")
NAMES = {
    "sac": "SAC, 2 critics",
    "iql": "IQL, 2 critics",
    "td3_bc": "TD3+BC, 2 critics",
    "redq": "REDQ, 10 critics, 2 in the target",
    "cql": "CQL, 2 critics, 30 sampled actions",
    "calql": "Cal-QL, 2 critics, 30 sampled actions, best of 10 in the target",
    "calql_10": "Cal-QL, 10 critics, 30 sampled actions, best of 10 in the target",
    "bc": "BC",
    "awac": "AWAC, 2 critics",
}
OWN = ("ours", "ours, compiled", "ours, bfloat16")


class Contestant:
    """A process that updates when it is asked to."""

    def __init__(self, command: list[str], case: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [*command, case, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"OMP_NUM_THREADS": str(threads), "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"},
        )
        self.missing = self.answer().get("missing")

    def answer(self) -> dict[str, Any]:
        """What it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} stopped: run it by hand to see why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def rate(self, seconds: float) -> float:
        """Updates per second for that long."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = self.answer()
        return float(found["updates"]) / float(found["seconds"])

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: rates of all contestants, turn by turn, and the bound."""
    own = [sys.executable, str(HERE / "ours.py")]
    commands = {"ours": own, "eager loop": [sys.executable, str(HERE / "eager_loop.py")]}
    if arguments.compiled:
        commands["ours, compiled"] = [*own, "--compiled"]
    if arguments.bfloat16:
        commands["ours, bfloat16"] = [*own, "--bfloat16"]
    if arguments.peers:
        commands["d3rlpy"] = [arguments.peers, str(HERE / "with_d3rlpy.py")]
        commands["TorchRL"] = [arguments.peers, str(HERE / "with_torchrl.py")]
    contestants = {name: Contestant(command, case, arguments.threads) for name, command in commands.items()}
    contestants = {name: each for name, each in contestants.items() if not each.missing}
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    bounds: list[dict[str, float]] = []
    try:
        for _ in range(arguments.turns):
            for name, contestant in contestants.items():
                rates[name].append(contestant.rate(arguments.seconds))
            line = [*own, "--bound", case, str(arguments.threads), str(arguments.seconds)]
            bounds.append(json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout))
    finally:
        for contestant in contestants.values():
            contestant.close()
    bound = {key: statistics.median(each[key] for each in bounds) for key in bounds[0]}
    return {"rates": rates, "bound": bound, "threads": arguments.threads}


def table(found: dict[str, Any]) -> str:
    """Markdown: rates with their range, and of ours the ratios and the shares of the bounds."""

    def present(*names: str) -> list[str]:
        return [name for name in names if any(name in each["rates"] for each in found.values())]

    others, own = present("d3rlpy", "TorchRL", "eager loop"), present(*OWN)
    head = ["case", *others, *own, *(f"{mine} : {name}" for mine in own for name in others), "GFLOP", "GFLOP/s large"]
    head += [f"{mine}, share of {what}" for mine in own for what in ("large", "own products")]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for case, each in found.items():
        rates, bound = each["rates"], each["bound"]
        middle = {name: statistics.median(values) for name, values in rates.items()}
        cells = [NAMES[case]]
        for name in [*others, *own]:
            values = rates.get(name)
            cells.append(f"{middle[name]:.1f} ({min(values):.1f} to {max(values):.1f})" if values else "-")
        for mine in own:
            both = [middle[mine] / middle[name] if {mine, name} <= middle.keys() else None for name in others]
            cells += ["-" if ratio is None else f"{ratio:.2f}" for ratio in both]
        cells += [f"{bound['flop'] / 1e9:.3f}", f"{bound['large_rate'] / 1e9:.0f}"]
        for mine in own:
            for seconds in (bound["flop"] / bound["large_rate"], bound["products_seconds"]):
                cells.append(f"{middle[mine] * seconds:.2f}" if mine in middle else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the cases that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="Python of the environment with d3rlpy and TorchRL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--compiled", action="store_true", help="ours as compiled code too; compiles for a minute each")
    parser.add_argument("--bfloat16", action="store_true", help="ours with hidden layers in bfloat16 too")
    parser.add_argument("--output", type=Path, default=Path("runs/side_by_side.json"))
    arguments = parser.parse_args()
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for case in arguments.only:
        if case in found:
            print(f"{case}: already in {arguments.output}")
            continue
        found[case] = measure(case, arguments)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
        middle = {name: round(statistics.median(values), 1) for name, values in found[case]["rates"].items()}
        print(f"{case}: {middle}", flush=True)
    print(table(found))
    if not arguments.peers:
        print("\nOnly ours and the plain loop ran: --help says how d3rlpy and TorchRL are installed.")


if __name__ == "__main__":
    main()
