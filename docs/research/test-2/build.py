"""Build the set test-2: python docs/research/test-2/build.py SOURCES CORPUS OUT [--material FOLDER ...]

SOURCES has the recordings that sources.csv lists, each as SOURCE/PATH with + for / in SOURCE. Nothing is built where a
checksum differs, or where a recording resembles one of CORPUS, of a --material folder, or another of the set. OUT gets
clean/, noisy/ and mixtures.csv. Prints what was measured and the checksum of the whole set. Needs ffmpeg for G.722.
"""

import argparse
import csv
import itertools
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile
import soxr
from fingerprint import Fingerprints
from scipy.signal import butter, sosfilt

from deepnmf_cli.checkpoint import file_hash
from deepnmf_cli.corpus.mixing import Samples, in_room, rms, scale_to_snr
from deepnmf_cli.errors import CorpusError, DeepnmfError
from deepnmf_cli.scoring.pairing import corpus_hash, printable

HERE = Path(__file__).parent
AUDIO = (".flac", ".ogg", ".wav", ".mp3", ".opus")
SEED = 20
SNRS_DB = (-6, -3, 0, 3, 6, 9, 12)
ROOM_EVERY = 3
"""Every third mixture has a room."""
PAUSE_S, FADE_S = 0.2, 0.01
PAUSE_DB = -65.0
"""Between joined words: white noise, relative to the speech, for there is no digital silence in a room."""
LEVELS_DB = (-32.0, -20.0)
"""RMS of the speech, drawn evenly; lower where the mixture would pass PEAK."""
PEAK = 0.95
SOUND_M_S = 343.0
COLUMNS = ("name", "speaker", "sex", "language", "noise", "noise_kind", "snr_db", "room", "rate_hz")

MIN_SECONDS, MAX_SECONDS = 3.0, 8.0
MIN_FLOOR_DB = 30.0
"""Of clean speech: its level above the 5th percentile of its frames."""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--material", type=Path, action="append", default=[], help="what else training has heard")
    parser.add_argument("--table", type=Path, default=HERE / "sources.csv", help="the list of sources")
    options = parser.parse_args(arguments)
    rows = read_table(options.table)
    check_hashes(rows, options.sources)
    check_speakers(rows, options.corpus)
    check_resemblance(rows, options.sources, [options.corpus, *options.material])
    mixtures = build(rows, options.sources, options.out)
    files = [path for path in options.out.rglob("*") if path.suffix in (".flac", ".csv")]
    print(f"{len(mixtures)} mixtures, checksum of the set: {corpus_hash(files)}")


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a list of sources."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def place(row: dict[str, str], sources: Path) -> Path:
    """Where the recording of a row lies."""
    return sources / row["source"].replace("/", "+") / row["path"]


def check_hashes(rows: list[dict[str, str]], sources: Path) -> None:
    """Raise CorpusError for a file that is missing, differs from the list, or is listed twice."""
    for row in rows:
        path = place(row, sources)
        found = file_hash(path) if path.is_file() else "no file"
        if found != row["sha256"]:
            remedy = f"Take the file from {row['source']} {row['version']}."
            raise CorpusError(path, found, f"SHA-256 {row['sha256']}", remedy)
    twice = [name for name, times in Counter(row["sha256"] for row in rows).items() if times > 1]
    if twice:
        raise CorpusError("sources", f"a file twice, SHA-256 {twice[0]}", "each file once", "Leave one out.")


def check_speakers(rows: list[dict[str, str]], corpus: Path) -> None:
    """Raise CorpusError where the corpus has a speaker of that name."""
    tables = [corpus / "train/speech.csv", corpus / "dev/mixtures.csv", corpus / "test/mixtures.csv"]
    known = {row["speaker"] for table in tables if table.is_file() for row in read_table(table)}
    if both := known & {row["speaker"] for row in rows if row["speaker"]}:
        raise CorpusError(
            corpus, f"the speaker {min(both)}", "no speaker of the set", "Leave the speaker out of the set."
        )


def check_resemblance(rows: list[dict[str, str]], sources: Path, folders: list[Path]) -> None:
    """Raise CorpusError for the first recording that resembles one of the folders, or another one of the set."""
    known = Fingerprints()
    for row in rows:
        known.add(row["path"], *read(place(row, sources)))
    print(f"fingerprints of {len(known.names)} recordings, {len(known.keys)} pairs of peaks")
    for index, row in enumerate(rows):
        known.compare(printable(place(row, sources)), *read(place(row, sources)), apart_from=index)
    files, seconds = 0, 0.0
    for path in heard_files(folders):
        samples, rate_hz = read(path)
        twin = clean_twin(path)
        if twin and len(clean := read(twin)[0]) == len(samples):
            samples = samples - clean
        known.compare(str(path), samples, rate_hz)
        files, seconds = files + 1, seconds + len(samples) / rate_hz
    likeness, pairs, share, own, other = known.nearest
    print(f"compared with {files} files, {seconds / 3600:.1f} h: most alike, {likeness:.2f} of what is a resemblance,")
    print(f"are {own} and {other}: {pairs} pairs of peaks, {share:.0%}")


def heard_files(folders: list[Path]) -> list[Path]:
    """All recordings below the folders, each once."""
    found = (path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO)
    return list(dict.fromkeys(path.resolve() for path in found))


def clean_twin(path: Path) -> Path | None:
    """The clean recording of a noisy one: their difference is the noise."""
    twin = path.parent.parent / "clean" / path.name
    return twin if path.parent.name == "noisy" and twin.is_file() else None


def read(path: Path) -> tuple[Samples, int]:
    """Mono samples (n,) and their rate."""
    if path.suffix == ".g722":
        command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(path), "-f", "s16le", "-ac", "1", "-"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        return np.frombuffer(raw, "<i2").astype(np.float32) / 32768, 16000
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(1), rate_hz


def at_rate(path: Path, rate_hz: int) -> Samples:
    """Samples without their mean, at another rate."""
    samples, found_hz = read(path)
    return soxr.resample(samples - samples.mean(), found_hz, rate_hz).astype(np.float32)


def build(rows: list[dict[str, str]], sources: Path, out: Path) -> list[dict]:
    """Write the mixtures and their table to an empty folder; the same rows and files give the same set."""
    if out.exists() and any(out.iterdir()):
        raise CorpusError(out, "a folder that is not empty", "an empty one, or none", "Name another folder.")
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["recording"]].append(row)
    speech = {name: group for name, group in groups.items() if group[0]["role"] == "speech"}
    noise = {name: group[0] for name, group in groups.items() if group[0]["role"] == "noise"}
    mixtures = []
    for number, mixture in enumerate(plan(speech, noise)):
        draw = np.random.default_rng([SEED, number])
        rate_hz, group, other = mixture["rate_hz"], speech[mixture.pop("recording")], noise[mixture["noise"]]
        dry = joined([at_rate(place(row, sources), rate_hz) for row in group], rate_hz, draw)
        target = heard = dry
        if mixture["room"]:
            response, t60_s = room_response(draw, rate_hz)
            mixture["room"] = f"{t60_s:.2f} s"
            target, heard = (in_room(dry, response, rate_hz, early_only=early) for early in (True, False))
        sound = excerpt(at_rate(place(other, sources), rate_hz), len(dry), rate_hz, draw)
        sound = scale_to_snr(heard, sound, mixture["snr_db"])
        gain = 10 ** (draw.uniform(*LEVELS_DB) / 20) / rms(heard)
        gain = np.float32(min(gain, PEAK / max(np.abs(x).max() for x in (heard + sound, target))))
        mixture["name"] = f"{number:03d}_{mixture['snr_db']:+d}dB_{mixture['speaker']}_{mixture['noise']}"
        for folder, samples in (("clean", gain * target), ("noisy", gain * (heard + sound))):
            path = out / folder / f"{mixture['name']}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, rate_hz, subtype="PCM_16")
        check_clean(mixture["name"], gain * dry, rate_hz)
        mixtures.append(mixture)
    with (out / "mixtures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(mixtures)
    return mixtures


def plan(speech: dict[str, list[dict[str, str]]], noise: dict[str, dict[str, str]]) -> list[dict]:
    """Which speech meets which noise: each recording of speech once, noises, SNRs and rooms equally often.

    Every second recording of a speaker with a band above 8 kHz is mixed at 48 kHz, with a noise that has such a band.
    """
    draw = np.random.default_rng(SEED)
    names, of_speaker, rates = sorted(speech), Counter(), {}
    for name in names:
        row = speech[name][0]
        rates[name] = 48000 if row["rate_hz"] == "48000" and of_speaker[row["speaker"]] % 2 else 16000
        of_speaker[row["speaker"]] += 1
    used = Counter()
    order = [str(name) for name in draw.permutation(sorted(noise))]
    chosen = {}
    # The wide mixtures first: fewer noises suit them.
    for name in sorted(draw.permutation(names), key=lambda name: -rates[str(name)]):
        fitting = [x for x in order if rates[str(name)] <= int(noise[x]["rate_hz"])]
        chosen[str(name)] = min(fitting, key=lambda x: used[x])
        used[chosen[str(name)]] += 1
    snrs = itertools.cycle(SNRS_DB)
    mixtures = []
    for number, name in enumerate(str(name) for name in draw.permutation(names)):
        row, other = speech[name][0], noise[chosen[name]]
        mixtures.append({
            "recording": name, "speaker": row["speaker"], "sex": row["sex"], "language": row["language"],
            "noise": chosen[name], "noise_kind": other["noise_kind"], "snr_db": next(snrs),
            "room": number % ROOM_EVERY == 0, "rate_hz": rates[name],
        })  # fmt: skip
    return [mixture | {"room": mixture["room"] or ""} for mixture in mixtures]


def joined(parts: list[Samples], rate_hz: int, draw: np.random.Generator) -> Samples:
    """Words one after the other, each as loud as the first, with faded ends and pauses between them."""
    fade = np.ones(round(FADE_S * rate_hz), np.float32).cumsum() / round(FADE_S * rate_hz)
    level = rms(parts[0])
    whole: list[Samples] = []
    for part in parts:
        part = part * np.float32(level / max(rms(part), 1e-9))
        part[: len(fade)] *= fade
        part[-len(fade) :] *= fade[::-1]
        pause = draw.standard_normal(round(PAUSE_S * rate_hz), np.float32) * np.float32(level * 10 ** (PAUSE_DB / 20))
        whole += [part, pause]
    return np.concatenate(whole[:-1]).astype(np.float32)


def excerpt(samples: Samples, length: int, rate_hz: int, draw: np.random.Generator) -> Samples:
    """`length` samples of a noise from a random place, the loudest of four; a short recording is repeated."""
    fade = min(round(0.05 * rate_hz), len(samples) // 4)
    rise = np.sqrt(np.arange(1, fade + 1, dtype=np.float32) / fade)
    while len(samples) < length:
        seam = samples[-fade:] * rise[::-1] + samples[:fade] * rise
        samples = np.concatenate([samples[:-fade], seam, samples[fade:]])
    starts = draw.integers(len(samples) - length + 1, size=4)
    return max((samples[start : start + length] for start in starts), key=rms)


def room_response(draw: np.random.Generator, rate_hz: int) -> tuple[Samples, float]:
    """The response of a box (n,) by image sources (Allen and Berkley 1979), and its reverberation time in s.

    Walls absorb alike (Eyring's formula) and arrivals are rounded to samples; what lies below 50 Hz is filtered out.
    """
    size = draw.uniform([3.0, 2.5, 2.3], [9.0, 7.0, 3.6])
    t60_s = draw.uniform(0.2, 0.8)
    ear = draw.uniform(0.5, size - 0.5)
    source = ear
    while not 0.5 < np.linalg.norm(source - ear) < 3.0:
        source = draw.uniform(0.5, size - 0.5)
    surface = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    reflected = np.exp(-0.161 * size.prod() / (surface * t60_s) / 2)
    reach = SOUND_M_S * t60_s
    counts = np.ceil(reach / (2 * size)).astype(int)
    periods = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in counts), indexing="ij"), -1).reshape(-1, 3)
    response = np.zeros(round(t60_s * rate_hz))
    for mirrored in itertools.product((0, 1), repeat=3):
        u = np.array(mirrored)
        distance = np.linalg.norm((1 - 2 * u) * source + 2 * periods * size - ear, axis=1)
        bounces = np.abs(periods - u).sum(1) + np.abs(periods).sum(1)
        arrival = np.round(distance / SOUND_M_S * rate_hz).astype(int)
        near = arrival < len(response)
        np.add.at(response, arrival[near], reflected ** bounces[near] / distance[near])
    return sosfilt(butter(2, 50.0, "high", fs=rate_hz, output="sos"), response).astype(np.float32), t60_s


def check_clean(name: str, speech: Samples, rate_hz: int) -> None:
    """Raise CorpusError for dry speech that is too short or long, too noisy, clipped, or silent in places."""
    frame = round(0.02 * rate_hz)
    heard = sosfilt(butter(4, 80.0, "high", fs=rate_hz, output="sos"), speech)
    power = (heard[: len(heard) // frame * frame].reshape(-1, frame) ** 2).mean(1)
    level_db = 10 * np.log10(power + 1e-14)
    active = level_db > np.percentile(level_db, 95) - 25
    floor_db = 10 * np.log10(power[active].mean()) - np.percentile(level_db, 5)
    seconds, peak = len(speech) / rate_hz, float(np.abs(speech).max())
    flat = int((np.abs(speech) >= 0.999 * peak).sum())
    silent = float((level_db < -110).mean())
    checks = (
        (MIN_SECONDS <= seconds <= MAX_SECONDS, f"{seconds:.1f} s", f"{MIN_SECONDS:g} to {MAX_SECONDS:g} s"),
        (floor_db >= MIN_FLOOR_DB, f"a floor {floor_db:.0f} dB down", f"{MIN_FLOOR_DB:g} dB or more"),
        (flat < 20, f"{flat} samples at the peak", "speech that is not clipped"),
        (silent < 0.1, f"{silent:.0%} of frames silent", "less than 10 %"),
    )
    for fine, found, expected in checks:
        if not fine:
            raise CorpusError(name, found, expected, "Choose other recordings in sources.csv.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DeepnmfError as error:
        sys.exit(str(error))
