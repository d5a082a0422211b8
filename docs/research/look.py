"""Score systems on a reserved set, and record the look first: python docs/research/look.py SET --system NAME ...

SET has clean/, noisy/ and mixtures.csv. A system is a model, as `deepnmf evaluate --model` takes it, or a folder of
enhanced recordings. A row is added to docs/reports/register.csv before anything is scored. A release may look at a set
once: only the same command may be repeated, to finish a look that was interrupted.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from deepnmf_cli import __version__
from deepnmf_cli.errors import CorpusError, DeepnmfError
from deepnmf_cli.scoring.pairing import corpus_hash

ROOT = Path(__file__).resolve().parents[2]
REGISTER = ROOT / "docs/reports/register.csv"
MODELS = ("best.safetensors", "last.safetensors")
"""Files by which the folder of a training run is known, which stands for its model."""
COLUMNS = ("date", "release", "commit", "set", "set_sha256", "systems", "command")


def main(arguments: list[str], register: Path = REGISTER) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--system", action="append", required=True, help="a model or a folder; may be repeated")
    parser.add_argument("--report", type=Path, help="a folder for the report, as of deepnmf evaluate")
    parser.add_argument("--dnsmos", action="store_true", help="predict DNSMOS P.835 as well")
    options = parser.parse_args(arguments)
    command = ["evaluate", "--reference", str(options.set / "clean"), "--noisy", str(options.set / "noisy")]
    command += ["--mixtures", str(options.set / "mixtures.csv")]
    for system in options.system:
        is_run = any((Path(system) / name).is_file() for name in MODELS)
        command += ["--estimate" if Path(system).is_dir() and not is_run else "--model", system]
    if options.dnsmos:
        command.append("--dnsmos")
    if options.report:
        command += ["--report", str(options.report)]
    record(register, options.set, options.system, ["deepnmf", *command])
    return evaluate(command)


def record(register: Path, folder: Path, systems: list[str], command: list[str], release: str = __version__) -> None:
    """Add a look to the register; raise CorpusError if this release has had another one at this set.

    Absolute paths are reduced to their last names, because places on one machine do not concern others.
    """
    said, systems = shlex.join(map(named, command)), list(map(named, systems))
    files = [path for path in folder.rglob("*") if path.suffix in (".flac", ".csv")]
    if not files:
        raise CorpusError(folder, "no set", "clean/, noisy/ and mixtures.csv", "Build the set first.")
    sha256 = corpus_hash(files)
    with register.open(newline="", encoding="utf-8") as file:
        looks = [row for row in csv.DictReader(file) if (row["release"], row["set_sha256"]) == (release, sha256)]
    if any(row["command"] == said for row in looks):
        return
    if looks:
        found = f"a look of release {release} on {looks[0]['date']}"
        raise CorpusError(register, found, "one look per release", "Wait for the next release.")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    date = datetime.now(UTC).date().isoformat()
    row = (date, release, commit, folder.resolve().name, sha256, " ".join(systems), said)
    with register.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(row)


def named(argument: str) -> str:
    """Return the last two names of an absolute path, and other arguments as they are."""
    return str(Path(*Path(argument).parts[-2:])) if Path(argument).is_absolute() else argument


def evaluate(command: list[str]) -> int:
    """Run `deepnmf` with this command and return its exit code."""
    return subprocess.run([sys.executable, "-m", "deepnmf_cli.main", *command]).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except DeepnmfError as error:
        sys.exit(str(error))
