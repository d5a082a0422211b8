"""What fine-tuning gains on one's own noise and loses elsewhere: python docs/research/benchmarks/fine_tuning.py CORPUS
OUT

One's own noise is the first four fifths of every recording that --own names below CORPUS/train/noise, or of the file
that it names, a minute or two; the last fifths are mixed with the clean speech of CORPUS/dev, whose speakers are not
trained on, at -5 to 10 dB. Elsewhere are the mixtures of CORPUS/dev as they are. Prints the mean SI-SDR of both before
and after `deepnmf train fine-tune`, the standard error of the difference over recordings, and the CPU time.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli import zoo
from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.manifest import audio_files, find_pairs
from deepnmf_cli.corpus.mixing import scale_to_snr
from deepnmf_cli.scoring.sdr import si_sdr

RATE_HZ = 16000
OWN_PART = 0.8
SNRS_DB = (-5.0, 0.0, 5.0, 10.0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus", type=Path, help="with train/speech, train/noise and dev/{clean,noisy}")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--own", default="machinery/esc10*", help="pattern of one's own noise, or a file")
    arguments.add_argument("--model", default="base")
    arguments.add_argument("--recordings", type=int, default=60, help="of each kind that are scored")
    arguments.add_argument("--synthetic", action="store_true", help="give no recordings of general noise")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = arguments.parse_args()

    own = [Path(given.own)] if Path(given.own).is_file() else sorted((given.corpus / "train/noise").glob(given.own))
    held_out = prepare(given.corpus, given.out, own)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    train(given)
    cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    pairs = [[decode(path, RATE_HZ) for path in pair] for pair in find_pairs(given.corpus / "dev")]
    step = max(1, len(pairs) // given.recordings)
    mixed = [(clean, clean + noise_for(clean, held_out, i)) for i, (clean, _) in enumerate(pairs[::step])]
    print(f"{sum(soundfile.info(path).duration for path in own) * OWN_PART:.0f} s of {given.own}, {cpu_s:.0f} s of CPU")
    for what, scored in (("own noise", mixed), ("elsewhere", pairs[::step])):
        old, new = (scores(model, scored) for model in (given.model, given.out / "run"))
        gain = new - old
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        print(f"{what}: {old.mean():.2f} -> {new.mean():.2f} dB, {gain.mean():+.2f} +- {error:.2f} (n = {len(gain)})")


def prepare(corpus: Path, out: Path, own: list[Path]) -> np.ndarray:
    """Write the part of one's own noise that is trained on, and links to all others; returns the part that is not."""
    (out / "own").mkdir(parents=True)
    (out / "general").mkdir()
    held_out = []
    for path in own:
        samples = decode(path, RATE_HZ)
        end = round(OWN_PART * len(samples))
        soundfile.write(out / "own" / f"{path.stem}.wav", samples[:end], RATE_HZ, subtype="FLOAT")
        held_out.append(samples[end:])
    for path in set(audio_files(corpus / "train/noise")) - set(own):
        kind = out / "general" / path.parent.name
        kind.mkdir(exist_ok=True)
        (kind / path.name).symlink_to(path.resolve())
    return np.concatenate(held_out)


def train(given: argparse.Namespace) -> None:
    """Fine-tune as a user does, on one thread."""
    command = [sys.executable, "-c", "from deepnmf_cli.main import run; run()", "train", "fine-tune"]
    command += ["--init", given.model, "--threads", "1", "--device", "cpu", "-o", given.out / "run"]
    command += ["--speech", given.corpus / "train/speech", "--noise", given.out / "own"]
    command += [] if given.synthetic else ["--general-noise", given.out / "general"]
    command += [part for override in given.set for part in ("--set", override)]
    subprocess.run([str(part) for part in command], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def noise_for(clean: np.ndarray, noise: np.ndarray, number: int) -> np.ndarray:
    """A stretch of the noise as long as the speech, repeated where it is too short, at the SNR whose turn it is."""
    start = int(np.random.default_rng(number).integers(len(noise)))
    stretch = np.resize(np.roll(noise, -start), len(clean))
    return scale_to_snr(clean, stretch, SNRS_DB[number % len(SNRS_DB)])


def scores(model: str | Path, pairs: list) -> np.ndarray:
    """SI-SDR of every recording, (n,) in dB."""
    enhancer = zoo.load_enhancer(model, device="cpu", threads=1)
    enhanced = (enhancer.enhance(noisy[None], RATE_HZ)[0] for _, noisy in pairs)
    return np.array([si_sdr(clean.astype(float), x.astype(float)) for (clean, _), x in zip(pairs, enhanced)])


if __name__ == "__main__":
    main()
