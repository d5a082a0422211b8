"""Mixtures that tell whether a model lacks speech or noise: python docs/research/flagship/exchange.py CORPUS OUT

Speech of the dev recordings and of training, each in noise of both: four folders OUT/SPEECH-speech-NOISE-noise with
clean/ and noisy/, of the same SNRs. Score them with `deepnmf evaluate --reference .../clean --noisy .../noisy --model
base`, and any other program by its own output with `--estimate`. Recordings are cut to four seconds, and those left out
for which one of the four mixtures would have nothing to be scaled. A model that is weak on one material alone has heard
too little of it; a program trained on other material says which of the folders are hard for everybody.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from deepnmf_cli.corpus.clips import decode
from deepnmf_cli.corpus.dataset import MixingSettings, MixtureDataset
from deepnmf_cli.corpus.manifest import find_pairs, scan
from deepnmf_cli.corpus.mixing import SILENT_RMS, is_silent, rms, scale_to_snr

RATE_HZ = 16000
SMALLEST_SHARE = 1e-4
"""Noise this much below speech is taken for none: there is no SNR to keep."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus", type=Path, help="with train/speech, train/noise and dev/{clean,noisy}")
    arguments.add_argument("out", type=Path)
    given = arguments.parse_args()
    speech, noise = scan(given.corpus / "train/speech"), scan(given.corpus / "train/noise")
    training = MixtureDataset(speech, noise, [], MixingSettings(segment_s=4.0), RATE_HZ, seed=0)
    pairs, made = find_pairs(given.corpus / "dev"), 0
    for number, (clean_path, noisy_path) in enumerate(pairs):
        clean, noisy = (decode(path, RATE_HZ)[: training.length] for path in (clean_path, noisy_path))
        draw = np.random.default_rng([1, number])
        voices = {"dev": clean, "train": training.speech(draw)[: len(clean)]}
        noises = {"dev": noisy - clean, "train": training.noise(draw)[: len(clean)]}
        if any(is_silent(x) for x in (*voices.values(), *noises.values())):
            continue
        if rms(noises["dev"]) < max(SILENT_RMS, SMALLEST_SHARE * rms(clean)):
            continue
        made += 1
        snr_db = 20 * np.log10(rms(clean) / rms(noises["dev"]))
        for (who, voice), (where, sound) in ((v, n) for v in voices.items() for n in noises.items()):
            mixture = voice + scale_to_snr(voice, sound, snr_db)
            for kind, samples in (("clean", voice), ("noisy", mixture)):
                folder = given.out / f"{who}-speech-{where}-noise" / kind
                folder.mkdir(parents=True, exist_ok=True)
                # As floats: a mixture may exceed 1, and its parts must keep their ratio.
                soundfile.write(folder / f"{number:03d}.wav", samples, RATE_HZ, subtype="FLOAT")
    print(f"{made} of {len(pairs)} recordings, four mixtures each")


if __name__ == "__main__":
    main()
