"""`python -m tests.fuzz`: mutated inputs for the program, until the time is over. See `--help`."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A process with several threads must not be forked; read by libraries when they are imported."""


def main() -> int:
    """Returns 1 when something was found."""
    os.environ |= ONE_THREAD
    from tests.fuzz.campaign import DEFAULT_TARGETS, TARGETS, Runner, campaign

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1, help="how long; 1 by default")
    parser.add_argument("--cases", type=int, default=0, help="cases for each process, if that is sooner")
    parser.add_argument("--seed", type=int, default=1, help="1 by default")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--target", action="append", help=f"one of {', '.join(TARGETS)}; may be repeated")
    parser.add_argument("--index", type=int, help="run this case of --target alone, and show what it does")
    parser.add_argument("--report", type=Path, help="write what was done and found to this JSON file")
    place = Path(tempfile.gettempdir()) / "deepnmf-fuzz"
    parser.add_argument("--findings", type=Path, default=place, help=f"folder for inputs; {place} by default")
    options = parser.parse_args()
    targets = options.target or DEFAULT_TARGETS
    if options.index is not None:
        return _show(Runner(options.seed, options.findings), targets, options.index)
    result = campaign(
        options.seed, targets, 60 * options.minutes, options.processes, options.findings, options.cases
    ).to_json()
    if options.report:
        options.report.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))
    return int(bool(result["findings"]))


def _show(runner, targets: list[str], index: int) -> int:
    from tests.fuzz.campaign import case_of

    found = []
    for target in targets:
        case = case_of(target, runner.seed, index)
        print(f"{target} {index}: {case.note}\ndeepnmf {' '.join(case.arguments)}")
        found += runner.run(target, index)
    for finding in found:
        print(f"{finding.kind}: {finding.detail}")
    print(json.dumps(runner.result.to_json()["exit_codes"]), f"Inputs of findings: {runner.findings}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
