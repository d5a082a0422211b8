"""Speech activity detection from enhancement: make scenes, train the weights, compare with programs for the task.

    python docs/research/activity.py mix CORPUS SCENES              scenes of train and dev: recordings and labels
    python docs/research/activity.py enhance SCENES MODEL ...       results of models; base@3: with three layers
    python docs/research/activity.py train SCENES MODEL             weights of deepnmf_cli/signal/activity.py
    python docs/research/activity.py score SCENES MODEL ... [--rivals]    the table of activity.md

A scene of train is 40 s of a speaker and a noise, with pauses of .15 to 22 s, at -8 to 20 dB; one in eight has no
speech. Scenes of dev have the voices, the noises and the SNR of the 120 mixtures of dev, whose noises are
repeated. Rivals need `pip install --no-deps silero-vad webrtcvad-wheels`.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import torch
from sizes import mixtures
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from deepnmf_cli import load_enhancer
from deepnmf_cli.corpus.mixing import scale_to_snr
from deepnmf_cli.signal import activity
from deepnmf_cli.signal.activity import SpeechActivity

RATE_HZ, FRAME, SECONDS = 16000, 256, 40
TRAIN_SCENES, SEED = 300, 5
SPEECH_DB, FILLED = 35, 6
"""Frames of speech are at most this many dB below the loud ones of the utterance; pauses of fewer frames than this,
.1 s, count as speech too."""
PAUSES_S = (0.3, 1.0, 2.0, 4.0, 15.0)


def loudness(samples: np.ndarray) -> np.ndarray:
    """Return the power of frames, smoothed over three of them."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    return np.convolve(np.mean(frames**2, 1), np.ones(3) / 3, "same")


def labels(clean: np.ndarray) -> np.ndarray:
    """Return where there is speech in a clean recording, (T,) of bool."""
    power = loudness(clean)
    if not power.any():
        return np.zeros(len(power), bool)
    speech = power > np.percentile(power[power > 1e-9], 95) * 10 ** (-SPEECH_DB / 10)
    places = np.flatnonzero(speech)
    for first, last in pairwise(places):
        if last - first <= FILLED:
            speech[first:last] = True
    return speech


def at_frames(speech: np.ndarray) -> np.ndarray:
    """Return labels (B, T + 1) around the ends of frames, from labels (B, T) of the frames."""
    padded = np.pad(speech, ((0, 0), (1, 1)), "edge")
    return padded[:, 1:] | padded[:, :-1]


def repeated(noise: np.ndarray, count: int) -> np.ndarray:
    """Return `count` samples of a noise, which is repeated with 50 ms of cross-fade if it is shorter."""
    fade, rise = RATE_HZ // 20, np.linspace(0, 1, RATE_HZ // 20, dtype=np.float32)
    found = noise
    while len(found) < count:
        joint = found[-fade:] * (1 - rise) + noise[:fade] * rise
        found = np.concatenate([found[:-fade], joint, noise[fade:]])
    return found[:count]


def spoken(utterances: list[np.ndarray], draw: np.random.Generator) -> np.ndarray:
    """Return utterances of a voice one after the other, all equally loud, with pauses in between."""
    speech, at, number = np.zeros(SECONDS * RATE_HZ, np.float32), int(draw.uniform(0, 3) * RATE_HZ), 0
    while at < len(speech):
        one = utterances[number % len(utterances)]
        one = (0.05 * one / np.sqrt(np.mean(one**2) + 1e-12))[: len(speech) - at]
        speech[at : at + len(one)] += one
        at += len(one) + int(draw.choice(PAUSES_S) * draw.uniform(0.5, 1.5) * RATE_HZ)
        number += 1
    return speech


def mix(corpus: Path, scenes: Path) -> None:
    scenes.mkdir(parents=True, exist_ok=True)
    for part, made in (("train", train_scenes(corpus)), ("dev", dev_scenes(corpus))):
        noisy, speech, snr = zip(*made, strict=True)
        np.savez(scenes / f"{part}.npz", noisy=np.array(noisy), labels=np.array(speech), snr_db=np.array(snr))
        print(part, len(noisy), "scenes,", f"{np.mean(speech):.2f} speech")


def train_scenes(corpus: Path):
    draw = np.random.default_rng(SEED)
    voices: dict[str, list[Path]] = {}
    for path in sorted((corpus / "train/speech").rglob("*.ogg")):
        voices.setdefault(path.parent.name, []).append(path)
    noises = sorted((corpus / "train/noise").rglob("*.ogg"))
    seconds = np.array([soundfile.info(path).duration for path in noises])
    for _ in range(TRAIN_SCENES):
        files = draw.permutation(voices[draw.choice(sorted(voices))])[:4]
        utterances = [read(path)[: RATE_HZ * int(draw.integers(2, 9))] for path in files]
        noise = read(draw.choice(noises, p=seconds / seconds.sum()))
        noise = repeated(noise[draw.integers(max(1, len(noise) - SECONDS * RATE_HZ)) :], SECONDS * RATE_HZ)
        clean, snr_db = spoken(utterances, draw), draw.uniform(-8, 20)
        silent, gain = draw.random() < 1 / 8, 10 ** draw.uniform(-1.5, 0.5)
        if noise.any():
            noise = scale_to_snr(clean[clean != 0], noise, snr_db)
        clean = 0 * clean if silent else clean
        yield gain * (clean + noise), labels(clean), snr_db


def dev_scenes(corpus: Path):
    draw = np.random.default_rng(SEED)
    rows = mixtures(corpus / "dev")
    for row in rows:
        clean, noisy = (read(corpus / "dev" / kind / f"{row['name']}.flac") for kind in ("clean", "noisy"))
        same = [other["name"] for other in rows if other["speaker"] == row["speaker"]]
        utterances = [read(corpus / f"dev/clean/{name}.flac") for name in draw.permutation(same)[:4]]
        speech, snr_db = spoken(utterances, draw), float(row["snr_db"])
        noise = scale_to_snr(speech[speech != 0], repeated(noisy - clean, SECONDS * RATE_HZ), snr_db)
        yield speech + noise, labels(speech), snr_db


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def enhance(scenes: Path, models: list[str]) -> None:
    for model in models:
        name, _, depth = model.partition("@")
        enhancer = load_enhancer(name, "cpu", depth=int(depth) if depth else None)
        for part in ("train", "dev"):
            levels, enhanced = [], []
            for samples in np.load(scenes / f"{part}.npz")["noisy"]:
                heard = SpeechActivity()
                enhanced.append(enhancer.enhance(samples[None], RATE_HZ, activity=heard)[0])
                levels.append(heard.levels_db())
            np.savez(scenes / f"{part}-{model}.npz", levels_db=np.array(levels), enhanced=np.array(enhanced))


def marginals(log_odds: Tensor, agreement: Tensor) -> Tensor:
    """Return `activity.marginal_log_odds` for (B, T), with gradients."""

    def messages(columns: list[Tensor]) -> list[Tensor]:
        message, found = torch.zeros_like(columns[0]), []
        for own in columns:
            found.append(message)
            odds = message + own
            message = torch.logaddexp(odds + agreement, torch.zeros(())) - torch.logaddexp(odds, agreement)
        return found

    columns = list(log_odds.unbind(-1))
    return torch.stack(messages(columns), -1) + torch.stack(messages(columns[::-1])[::-1], -1) + log_odds


def train(scenes: Path, model: str) -> None:
    """Minimise the cross-entropy of the marginals by L-BFGS, starting from logistic regression of single frames."""
    torch.set_num_threads(1)
    levels_db = np.load(scenes / f"train-{model}.npz")["levels_db"]
    inputs = torch.tensor(np.array([activity.differences(*pair) for pair in levels_db])).float() / 10
    targets = torch.tensor(at_frames(np.load(scenes / "train.npz")["labels"])).float()
    sounding = torch.tensor(levels_db[:, 0] >= activity.QUIET_DB)
    weights = torch.zeros(5, requires_grad=True)

    def loss(chained: bool) -> Tensor:
        single = torch.einsum("f,bft->bt", weights[:3], inputs) + weights[3]
        odds = marginals(single, weights[4]) if chained else single
        return binary_cross_entropy_with_logits(odds[sounding], targets[sounding])

    for chained in (False, True):
        optimizer = torch.optim.LBFGS([weights], max_iter=40, line_search_fn="strong_wolfe")

        def closure(chained: bool = chained, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = loss(chained)
            value.backward()
            return value

        optimizer.step(closure)
        with torch.no_grad():
            print("chain" if chained else "frames", f"{loss(chained).item():.4f}", flush=True)
        if not chained:  # neighbours agree, so each needs less evidence
            with torch.no_grad():
                weights[:4] *= 0.4
                weights[4] = 4.0
    found = (weights.detach() / torch.tensor([10, 10, 10, 1, 1])).tolist()
    print("WEIGHTS =", tuple(round(w, 5) for w in found[:3]))
    print("BIAS, AGREEMENT =", *(round(w, 3) for w in found[3:]))


def area(scores: np.ndarray, speech: np.ndarray) -> float:
    """Return the area under the curve of hits over false alarms; ties count half."""
    values, inverse = np.unique(scores, return_inverse=True)
    hits, alarms = (np.bincount(inverse[which], minlength=len(values)) for which in (speech, ~speech))
    below = np.cumsum(alarms) - alarms / 2
    return float(np.sum(hits * below) / hits.sum() / alarms.sum())


def columns(scores: np.ndarray, data: dict[str, np.ndarray]) -> list[float]:
    """Return the area, overall and at the lowest and highest SNR, and errors, all in %.

    The errors are misses and false alarms at the system's own threshold, and the rate at which both are equal.
    """
    speech, snr = data["labels"], data["snr_db"]
    parts = [slice(None), snr == snr.min(), snr == snr.max()]
    areas = [100 * area(scores[part].ravel(), speech[part].ravel()) for part in parts]
    misses, alarms = 100 * np.mean(scores[speech] <= 0.5), 100 * np.mean(scores[~speech] > 0.5)
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, 1000)))
    equal = min(max(np.mean(scores[speech] < t), np.mean(scores[~speech] >= t)) for t in thresholds)
    return [*areas, misses, alarms, 100 * equal]


def between(levels_db: np.ndarray) -> np.ndarray:
    """Return probabilities (B, T) for the frames of labels from levels (B, 2, T + 1): the mean of both ends."""
    ends = [activity.marginal_log_odds(activity.evidence(*pair)) for pair in levels_db]
    probabilities = 1 / (1 + np.exp(-np.array(ends)))
    return (probabilities[:, 1:] + probabilities[:, :-1]) / 2


def by_frames(scores: np.ndarray, hop: int, count: int) -> np.ndarray:
    """Return scores in the middle of the frames of labels, from scores (B, N) of hops of `hop` samples."""
    places = ((np.arange(count) + 0.5) * FRAME / hop).astype(int)
    return scores[:, np.minimum(places, scores.shape[1] - 1)]


def webrtc(recordings: np.ndarray, count: int) -> np.ndarray:
    """Return the share of the four modes that detect speech, from frames of 10 ms."""
    import webrtcvad

    hop, rows = RATE_HZ // 100, []
    for samples in recordings:
        whole = (np.clip(samples / max(1, abs(samples).max()), -1, 1) * 32767).astype("<i2")
        said = np.zeros(len(whole) // hop)
        for mode in range(4):
            vad = webrtcvad.Vad(mode)
            said += [vad.is_speech(whole[i * hop : (i + 1) * hop].tobytes(), RATE_HZ) for i in range(len(said))]
        rows.append(said / 4)
    return by_frames(np.array(rows), hop, count)


def silero(recordings: np.ndarray, count: int) -> np.ndarray:
    """Return probabilities of speech, from hops of 32 ms."""
    from silero_vad import load_silero_vad

    torch.set_num_threads(1)
    model, hop, rows = load_silero_vad(onnx=False), 512, []
    with torch.no_grad():
        for samples in recordings:
            model.reset_states()
            hops = torch.tensor(samples[: len(samples) // hop * hop]).reshape(-1, hop)
            rows.append([model(one, RATE_HZ).item() for one in hops])
    return by_frames(np.array(rows), hop, count)


def score(scenes: Path, models: list[str], rivals: bool) -> None:
    data = dict(np.load(scenes / "dev.npz"))
    noisy, count = data["noisy"], data["labels"].shape[1]
    held = {model: np.load(scenes / f"dev-{model}.npz") for model in models}
    enhanced = held[models[0]]["enhanced"]
    systems: dict[str, Callable[[], np.ndarray]] = {}
    for model, kept in held.items():
        systems[model] = lambda kept=kept: between(kept["levels_db"])
    if rivals:
        for name, rival in (("Silero VAD", silero), ("WebRTC VAD", webrtc)):
            systems[name] = lambda rival=rival: rival(noisy, count)
            systems[f"{name}, after {models[0]}"] = lambda rival=rival: rival(enhanced, count)
    lowest, highest = data["snr_db"].min(), data["snr_db"].max()
    print(f"| system | AUC | at {lowest:g} dB | at {highest:g} dB | missed | false alarms | equal error |")
    print("|---|---|---|---|---|---|---|")
    for name, system in systems.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in columns(system(), data)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["mix", "enhance", "train", "score"])
    parser.add_argument("places", nargs="+")
    parser.add_argument("--rivals", action="store_true")
    given = parser.parse_args()
    first, *others = given.places
    if given.verb == "mix":
        mix(Path(first), Path(others[0]))
    elif given.verb == "enhance":
        enhance(Path(first), others)
    elif given.verb == "train":
        train(Path(first), others[0])
    else:
        score(Path(first), others, given.rivals)


if __name__ == "__main__":
    main()
