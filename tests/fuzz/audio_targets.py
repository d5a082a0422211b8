"""Recordings, folders and pipes for `enhance` and `stream`."""

import json
from pathlib import Path
from random import Random

from tests.fuzz import sounds
from tests.fuzz.cases import MODEL, Case, Target, prepare_audio
from tests.fuzz.child import Outcome
from tests.fuzz.second_opinion import frames_of, lost

NAMES = ("in",) * 12 + ("in\udcff", "i n", "u\u0308\u202e", "x" * 200, "in\n", "[in]{}%s", "in.wav")
"""What a file may be called: also with a byte that is no text."""

WRITTEN = ("wav", "wav", "wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64", "rf64")


def enhance(random: Random) -> Case:
    """One file, or standard input, to one file or standard output."""
    sound = sounds.mutated(random)
    source, target = f"{random.choice(NAMES)}.{sound.suffix}", f"out.{random.choice(WRITTEN)}"
    arguments = ["enhance", source, "-o", target, "--model", MODEL]
    files, pieces, outputs = {source: sound.data}, [], [target]
    if random.random() < 0.15:
        arguments[1], files, pieces = "-", {}, sounds.pieces(sound.data, random)
    if random.random() < 0.08:
        arguments[3], outputs = "-", []
    elif random.random() < 0.3:
        arguments.append("--json")
    if random.random() < 0.15:
        outputs.append(noise := f"noise.{random.choice(WRITTEN)}")
        arguments += ["--noise-out", noise]
    arguments += random.choice([[]] * 6 + [["--mix", "0.5"], ["--max-attenuation", "12"], ["--noise-profile", source]])
    if outputs and random.random() < 0.1:
        files[outputs[0]] = b"old"
        arguments += random.choice([[], ["--overwrite"]])

    def check(folder: Path, outcome: Outcome) -> str | None:
        if "--json" in arguments and outcome.code in (0, 1, 3):
            try:
                kinds = [json.loads(line)["type"] for line in outcome.out.splitlines()]
            except (ValueError, KeyError, TypeError):
                kinds = []
            if kinds != ["file", "summary"]:
                return "standard output is no line of JSON for the file and one for the summary"
        if outcome.code != 0:
            return None
        if arguments[3] == "-":
            target_file = folder / "standard output.wav"
            target_file.write_bytes(outcome.out)
            found = [frames_of(target_file, folder)]
            target_file.unlink()
        else:
            found = [frames_of(folder / "work" / name, folder) for name in outputs]
        if None in found:
            return "an output that cannot be read"
        if len(set(found)) > 1:
            return "speech and noise of different lengths"
        shown = arguments[1].encode("utf-8", "backslashreplace").decode()  # as standard error has it
        warned = shown in outcome.err or "standard input" in outcome.err
        return None if warned else lost(sound, found[0], folder)

    return Case(arguments, files, pieces, tuple(outputs), check, note=f"{sound.suffix} {' '.join(sound.mutations)}")


def folder(random: Random) -> Case:
    """A folder in which one file may be wrong, and others are not."""
    sound, good = sounds.mutated(random), sounds.speech(random)
    files = {"in/a.wav": good, f"in/sub/b.{sound.suffix}": sound.data, "in/z.wav": good}
    suffix = random.choice(["wav", "flac", sound.suffix])
    if random.random() < 0.3:
        files[f"in/c.{suffix}"] = sounds.mutated(random).data

    def check(folder: Path, outcome: Outcome) -> str | None:
        if outcome.code not in (0, 3):
            return f"exit code {outcome.code} where two files are whole"
        whole = [frames_of(folder / "work" / "out" / name, folder) for name in ("a.wav", "z.wav")]
        return None if whole == [4000, 4000] else f"whole files of 4000 samples became {whole}"

    outputs = ("out/",)
    arguments = ["enhance", "in", "-o", "out", "--model", MODEL, "--jobs", "1"]
    return Case(arguments, files, [], outputs, check, note=f"{sound.suffix} {' '.join(sound.mutations)}")


RAW = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}


def stream(random: Random) -> Case:
    """Raw samples, or a WAV file, from a pipe."""
    arguments = ["stream", "--model", MODEL, "--block", random.choice(["16", "16", "1", "100"])]
    if random.random() < 0.5:
        return _wav_stream(arguments, random)
    kind, channels = random.choice(list(RAW)), random.choice([1, 1, 2, 3, 64])
    arguments += ["--format", kind, "--channels", str(channels)]
    arguments += ["--rate", random.choice(["16000", "8000", "48000", "1000", "768000", "44100", "999", "768001"])]
    data = _raw(kind, channels, random)
    size = RAW[kind] * channels

    def check(folder: Path, outcome: Outcome) -> str | None:
        import numpy as np

        if outcome.code != 0:
            return None
        if len(outcome.out) != len(data) // size * size:
            return f"{len(outcome.out)} bytes out of {len(data)}"
        if kind == "f32le" and not np.isfinite(np.frombuffer(outcome.out, "<f4")).all():
            return "samples that are not finite"
        return None

    return Case(arguments, {}, sounds.pieces(data, random), (), check, note=f"raw {kind}")


def _raw(kind: str, channels: int, random: Random) -> bytes:
    import numpy as np

    frames = random.choice([0, 1, 100, 4000, 16_000 // channels])
    if random.random() < 0.2:
        return random.randbytes(frames * channels * RAW[kind] + random.choice([0, 1, 3]))
    values = sounds.samples(random, frames, channels)
    if kind == "f32le":
        for _ in range(random.choice([0, 0, 1, 5]) if frames else 0):
            values[random.randrange(frames), random.randrange(channels)] = random.choice(sounds.FINITE)
        return values.astype("<f4").tobytes()
    bits = 8 * RAW[kind]
    data = (values * ((1 << (bits - 1)) - 1)).astype("<i4").view(np.uint8).reshape(-1, 4)[:, : RAW[kind]]
    return data.tobytes() + random.choice([b"", b"", b"x"])


def _wav_stream(arguments: list[str], random: Random) -> Case:
    for _ in range(20):
        sound = sounds.mutated(random)
        if sound.suffix in ("wav", "wave", "rf64") or random.random() < 0.05:
            break

    def check(folder: Path, outcome: Outcome) -> str | None:
        known = sound.data[:4] in (b"RIFF", b"RF64") and sound.data[8:12] == b"WAVE"
        if outcome.code != 0 or "Warning" in outcome.err:
            return None
        if not known:
            suspicious = sound.suffix in ("flac", "ogg", "opus", "mp3", "caf", "aiff") and not sound.mutations
            return f"{sound.suffix} taken for raw samples" if suspicious else None
        if not sound.mutations and len(outcome.out) < 0.9 * len(sound.data) - 4000:
            return f"{len(outcome.out)} bytes out of {len(sound.data)}"
        return None

    note = f"{sound.suffix} {' '.join(sound.mutations)}"
    return Case(arguments, {}, sounds.pieces(sound.data, random), (), check, note=note)


_EMPTY = Case(["enhance", "in.wav", "-o", "out.wav", "--model", MODEL], {"in.wav": b"no sound"})
_EMPTY_FOLDER = Case(["enhance", "in", "-o", "out", "--model", MODEL], {"in/a.wav": b"no sound"})

TARGETS = {
    "enhance": Target(enhance, _EMPTY, prepare_audio),
    "folder": Target(folder, _EMPTY_FOLDER, prepare_audio),
    "stream": Target(stream, Case(["stream", "--model", MODEL], pieces=[b"RIFFxxxxWAVE"]), prepare_audio),
}
