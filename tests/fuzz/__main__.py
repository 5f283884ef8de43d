"""Feed damaged files to every parser of datasets: clear errors only, in bounded time and memory.

    python -m tests.fuzz [--inputs 100000] [--only NAME ...] [--seed 0]

Each parser gets its inputs in a process of its own with at most 4 GB of address space. An input is a sound
file with bytes flipped, cut out, doubled, spliced or replaced by values that are known to hurt; JSON is
changed in its structure as well. The parser may read it or raise one of the package's own errors. The table
says how many inputs were read and refused, the slowest one, and the peak memory; any other outcome is
printed and ends the run with 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

from tests.fuzz.parsers import TARGETS, fuzz

ADDRESS_SPACE = 4 * 1024**3


def main() -> int:
    """Run every parser and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=sorted(TARGETS), choices=sorted(TARGETS))
    parser.add_argument("--here", action="store_true", help="run in this process and print JSON")
    found = parser.parse_args()
    if found.here:
        print(json.dumps(_run_here(found.only[0], found.inputs, found.seed)))
        return 0
    print("| parser | inputs | read | refused | other errors | slowest (CPU ms) | peak memory (MB) |")
    print("|---|---|---|---|---|---|---|", flush=True)
    return max([_print_row(name, found.inputs, found.seed) for name in found.only], default=0)


def _print_row(name: str, inputs: int, seed: int) -> int:
    command = [sys.executable, "-m", "tests.fuzz", "--here", "--only", name]
    command += ["--inputs", str(inputs), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"| {name} | died with {done.returncode} |\n{done.stderr[-2000:]}", flush=True)
        return 1
    row = json.loads(done.stdout)
    print(
        f"| {name} | {row['inputs']} | {row['read']} | {row['refused']} | {len(row['other'])} "
        f"| {1000 * row['slowest']:.0f} | {row['memory']:.0f} |",
        *row["other"],
        sep="\n" if row["other"] else "",
        flush=True,
    )
    return int(bool(row["other"]))


def _run_here(name: str, inputs: int, seed: int) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    outcome = fuzz(TARGETS[name], inputs, seed)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "inputs": outcome.inputs,
        "read": outcome.read,
        "refused": outcome.refused,
        "other": list(outcome.other),
        "slowest": outcome.slowest,
        "memory": memory,
    }


if __name__ == "__main__":
    sys.exit(main())
