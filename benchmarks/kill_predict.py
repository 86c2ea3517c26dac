"""Kills a folder prediction (kill -9) at random moments, goes on with --continue, and compares the files with an undisturbed run's.

    .venv/bin/python benchmarks/kill_predict.py -i IMAGES -m MODEL --kills 50

Each round is a chain of one to five kills in one output folder, then a run to the end. Only kills that found a run at work count.
`--signal TERM` or `INT` stops a run in its orderly way instead; then its exit code, the seconds until it has ended and that it leaves no
temporary file are checked as well. Runs are forked from one process that has the packages loaded, so that the moments fall into the work.
The exit code is 1 where anything differed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from ldseg_auto.cli import common, predict

SETTLE = 6.0  # seconds from a signal to the end, at most


def start(args: argparse.Namespace, output: Path, *more: str) -> int:
    """Forks a prediction; its process id."""
    child = os.fork()
    if child == 0:
        flags = ["-i", str(args.input), "-m", str(args.model), "-o", str(output), "--device", "cpu", "--quiet", *args.flags, *more]
        os._exit(common.run(predict.build(), predict.work, flags))
    return child


def end(child: int) -> int:
    """Waits; the exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files(output: Path) -> dict[str, bytes]:
    """Content of every file; of the manifest the hashes alone, for it says how long each case took."""
    found = {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file()}
    cases = json.loads(found.pop("manifest.json"))["cases"]
    kept = {name: {k: record[k] for k in ("status", "inputs", "outputs")} for name, record in sorted(cases.items())}
    return {**found, "manifest.json": json.dumps(kept).encode()}


def disturb(args: argparse.Namespace, output: Path, seconds: float, number: int, moment: random.Random) -> tuple[int, list[str]]:
    """A chain of kills, which ends with a run that was faster than its kill; how many hit, and what was wrong."""
    hits, wrong, sent = 0, [], signal.Signals[f"SIG{args.signal}"]
    for _ in range(number):
        child = start(args, output, "--continue")
        time.sleep(moment.uniform(0, seconds))
        os.kill(child, sent)
        begin, code = time.monotonic(), end(child)
        hits += code in (-sent, 128 + sent)
        if sent != signal.SIGKILL:
            if code not in (0, 128 + sent):
                wrong.append(f"exit code {code}")
            if time.monotonic() - begin > SETTLE:
                wrong.append(f"{time.monotonic() - begin:.1f} s until the end")
            wrong += [f"{p} was left" for p in output.rglob(".tmp_*")]
        if code == 0:
            break
    return hits, wrong


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of images")
    parser.add_argument("-m", "--model", type=Path, required=True, help="model folder")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("/tmp/ldseg_kill_predict"), help="folder for the outputs; emptied first")
    parser.add_argument("flags", nargs="*", help="further flags of ldseg_predict, after --")
    args = parser.parse_args()
    import ldseg_auto.inference.predictor  # noqa: F401  loaded before the forks

    shutil.rmtree(args.work, ignore_errors=True)
    begin = time.monotonic()
    if end(start(args, args.work / "undisturbed")):
        return 1
    seconds, expected = time.monotonic() - begin, files(args.work / "undisturbed")
    moment, left, rounds, wrong = random.Random(args.seed), args.kills, 0, list[str]()
    while left and rounds < 20 * args.kills:
        number, output = min(left, moment.randint(1, 5)), args.work / f"round_{rounds}"
        found, bad = disturb(args, output, seconds, number, moment)
        if (code := end(start(args, output, "--continue"))) != 0:
            bad.append(f"exit code {code} at the end")
        elif (after := files(output)) != expected:
            bad += [f"{name} differs" for name in sorted({*after, *expected}) if after.get(name) != expected.get(name)]
        wrong += [f"{output.name}: {b}" for b in bad]
        left, rounds, seconds = left - found, rounds + 1, seconds if found else 0.8 * seconds
    for line in wrong:
        print(line)
    print(f"{args.kills - left} runs at work were sent SIG{args.signal}, in {rounds} rounds; {len(wrong)} faults")
    return 1 if wrong or left else 0


if __name__ == "__main__":
    sys.exit(main())
