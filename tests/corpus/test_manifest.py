"""A tree of the shape of CHiME-2 is read as it is."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from deepnmf_cli.corpus import manifest
from deepnmf_cli.errors import CorpusError
from deepnmf_cli.experiment import Recordings, open_corpus, train
from deepnmf_cli.recipe import read_recipe

PAPER = Path(__file__).parents[2] / "docs/research/ladder/recipes/deep-nmf-paper.toml"
SNRS = ("m6dB", "m3dB", "0dB", "3dB", "6dB", "9dB")
SMALL = ["front_end.rate_hz=8000", "network.context=2", "network.atoms=4", "network.iterations=3"]
SMALL += ["dictionary.batches=2", "dictionary.batch_frames=40", "training.steps=2", "training.batch=2"]
SMALL += ["mixing.segment_s=0.3", "network.trained_layers=2"]


def tree(root: Path, sets: dict[str, list[str]], references: dict[str, list[str]]) -> Path:
    """A corpus with noisy files at -6 dB ... in `isolated/<set>/` and speech in `scaled/<set>/`, in stereo at 8 kHz."""
    time_s = np.arange(6000) / 8000
    for where, names in [(f"isolated/{s}", n) for s, n in sets.items()] + [
        (f"scaled/{s}", n) for s, n in references.items()
    ]:
        for i, name in enumerate(names):
            speech = 0.2 * np.sin(2 * np.pi * (200 + 20 * i) * time_s)
            noise = 0.1 * np.random.default_rng(i).standard_normal(6000) if where.startswith("isolated") else 0
            path = root / where / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.stack([speech + noise] * 2, 1).clip(-1, 1), 8000)
    return root


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Training utterances of two speakers, dev utterances at six SNRs, references of the same names."""
    training = [f"{speaker}/{speaker}a010{i}" for speaker in ("011", "012") for i in range(4)]
    dev = [f"{snr}/050/050a0501" for snr in SNRS]
    sets = {"si_tr_s": training, "si_dt_05": dev, "si_et_05": dev}
    return tree(tmp_path / "chime2", sets, sets)


def test_sets_are_read_from_their_folders(corpus: Path) -> None:
    pairs = manifest.chime_pairs(corpus, "train")
    assert len(pairs) == 8 and all("scaled/si_tr_s" in str(c) and "isolated/si_tr_s" in str(n) for c, n in pairs)
    dev = manifest.chime_pairs(corpus, "dev")
    assert [noisy.parts[-3] for _, noisy in dev] == sorted(SNRS)
    assert all(clean.parts[-4:] == ("si_dt_05", *noisy.parts[-3:]) for clean, noisy in dev)


def test_training_and_dev_pairs_come_from_their_sets(corpus: Path, tmp_path: Path) -> None:
    recipe = read_recipe(PAPER, None, SMALL)
    source, dev = open_corpus(Recordings(pairs=corpus), recipe)
    assert len(dev) == 6 and source[0][0].shape == (2400,)
    assert train(recipe, Recordings(pairs=corpus), tmp_path / "run")
    assert (tmp_path / "run/best.safetensors").is_file()


def test_one_reference_serves_all_snrs(tmp_path: Path) -> None:
    noisy = [f"{snr}/050/050a050{i}" for snr in SNRS for i in range(2)]
    folder = tree(tmp_path, {"": noisy}, {"": ["050/050a0500", "050/050a0501"]})
    pairs = manifest.chime_pairs(folder, "train")
    assert len(pairs) == 12 and {clean.name for clean, _ in pairs} == {"050a0500.wav", "050a0501.wav"}
    assert all(clean.name == noisy.name for clean, noisy in pairs)
    assert manifest.chime_pairs(folder, "dev") == []


def test_noisy_files_without_a_reference_are_named(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"": ["0dB/050/a", "0dB/050/b"]}, {"": ["050/a"]})
    with pytest.raises(CorpusError, match="b.wav: found no reference of its name; expected one below scaled/"):
        manifest.chime_pairs(folder, "train")
    folder = tree(tmp_path / "other", {"": ["0dB/050/a"]}, {})
    with pytest.raises(CorpusError, match="Add the tree scaled/"):
        manifest.chime_pairs(folder, "train")
