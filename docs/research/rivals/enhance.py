"""Enhance a folder of recordings with a published program: python docs/research/rivals/enhance.py NAME FOLDER NOISY OUT

NAME is an entry of rivals.toml beside this file, FOLDER where its repository was checked out ("-" for a package, which
has to be installed). Nothing of either is part of this repository. Code and weights must have the checksums, a package
the version, that rivals.toml names. Outputs are WAV files of 32-bit floats, as long as the input, at its rate, and
aligned with it; those that are there already are kept. Needs soundfile and soxr beside what the program itself needs.
"""

import argparse
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import soxr

HERE = Path(__file__).resolve().parent

Process = Callable[[np.ndarray], np.ndarray]
"""From samples (n,) at the rate of the program to at least n samples, late by the delay that rivals.toml names."""


def in_frames(samples: np.ndarray, size: int) -> np.ndarray:
    """The samples in frames of `size` (frames, size), the last one filled up with zeros; a copy."""
    return np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)


def gtcrn(folder: Path) -> Process:
    import torch

    sys.path.insert(0, str(folder))
    from gtcrn import GTCRN  # pyright: ignore[reportMissingImports]

    network = GTCRN().eval()
    network.load_state_dict(torch.load(folder / "checkpoints/model_trained_on_dns3.tar", map_location="cpu")["model"])
    window = torch.hann_window(512).pow(0.5)

    def process(samples: np.ndarray) -> np.ndarray:
        noisy = torch.from_numpy(np.pad(samples, (0, 512)))
        with torch.no_grad():
            bins = network(torch.view_as_real(torch.stft(noisy, 512, 256, 512, window, return_complex=True))[None])[0]
        return torch.istft(torch.view_as_complex(bins.contiguous()), 512, 256, 512, window).numpy()

    return process


def ul_unas(folder: Path) -> Process:
    import torch

    sys.path.insert(0, str(folder))
    from ulunas import ULUNAS  # pyright: ignore[reportMissingImports]

    network = ULUNAS().eval()
    network.load_state_dict(torch.load(folder / "checkpoints/model_trained_on_dns3.tar", map_location="cpu")["model"])

    def process(samples: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(np.pad(samples, (0, 512)))[None])[0].numpy()

    return process


def graph(path: Path) -> tuple[Callable[..., list[np.ndarray]], dict[str, tuple[int, ...]]]:
    """An ONNX graph as a function of a dict of inputs, and the names and shapes of its inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    run = cast("Callable[..., list[np.ndarray]]", session.run)
    return partial(run, None), {one.name: tuple(one.shape) for one in session.get_inputs()}


def dtln(folder: Path) -> Process:
    (first, shapes), (second, others) = (graph(folder / f"pretrained_model/model_{part}.onnx") for part in (1, 2))
    (magnitudes, state), (frames, other) = shapes, others
    size, hop = 512, 128

    def process(samples: np.ndarray) -> np.ndarray:
        states = [np.zeros(shapes[state], np.float32), np.zeros(others[other], np.float32)]
        heard, ahead, out = np.zeros(size, np.float32), np.zeros(size, np.float32), []
        for new in in_frames(samples, hop):
            heard = np.concatenate([heard[hop:], new])
            bins = np.fft.rfft(heard)
            gains, states[0] = first({magnitudes: np.abs(bins).astype("f4")[None, None], state: states[0]})
            masked = np.fft.irfft(bins * gains[0, 0]).astype("f4")
            frame, states[1] = second({frames: masked[None, None], other: states[1]})
            ahead = np.concatenate([ahead[hop:], np.zeros(hop, np.float32)]) + frame.squeeze()
            out.append(ahead[:hop])
        return np.concatenate(out)

    return process


def dpcrn(folder: Path) -> Process:
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    path = folder / "inference/real_time_inference/dpcrn_stateful_model.tflite"
    network = Interpreter(model_path=str(path), num_threads=1)
    network.allocate_tensors()
    inputs, outputs = network.get_input_details(), network.get_output_details()
    size, hop = 512, 256
    window = np.sin((np.arange(size) + 0.5) * np.pi / size)

    def process(samples: np.ndarray) -> np.ndarray:
        states = [np.zeros(one["shape"], np.float32) for one in inputs[1:]]
        heard, ahead, out = np.zeros(size), np.zeros(size), []
        for new in in_frames(samples, hop):
            heard = np.concatenate([heard[hop:], new])
            bins = np.fft.rfft(heard * window)
            loud = 2 * np.log(np.maximum(np.abs(bins), 1e-9))  # silence has no logarithm
            network.set_tensor(inputs[0]["index"], np.stack([bins.real, bins.imag, loud], -1)[None, None].astype("f4"))
            for one, state in zip(inputs[1:], states):
                network.set_tensor(one["index"], state)
            network.invoke()
            mask, sine, cosine, *states = (network.get_tensor(one["index"]) for one in outputs)
            enhanced = np.fft.irfft(bins * (mask * (cosine + 1j * sine))[0, 0]) * window
            ahead = np.concatenate([ahead[hop:], np.zeros(hop)]) + enhanced
            out.append(ahead[:hop])
        return np.concatenate(out)

    return process


def fastenhancer(folder: Path) -> Process:
    network, shapes = graph(folder / "onnx/fastenhancer_b.onnx")
    size, hop = 512, 256

    def process(samples: np.ndarray) -> np.ndarray:
        caches = {name: np.zeros(shape, "f4") for name, shape in shapes.items() if name.startswith("cache")}
        heard, out = np.zeros(size, np.float32), []
        for new in in_frames(np.clip(samples, -1, 1), hop):
            heard = np.concatenate([heard[hop:], new])
            frame, *kept = network({"wav_in": heard[None], **caches})
            caches = {f"cache_in_{place}": value for place, value in enumerate(kept)}
            out.append(frame[0])
        return np.concatenate(out)

    return process


def deepfilternet3(folder: Path) -> Process:
    import libdf  # pyright: ignore[reportMissingImports]

    encode, gains_of, filters_of = (
        graph(folder / f"tmp/export/{part}.onnx")[0] for part in ("enc", "erb_dec", "df_dec")
    )
    bins, order, ahead = 96, 5, 2

    def process(samples: np.ndarray) -> np.ndarray:
        stream = libdf.DF(48000, 960, 480, 32, 2)
        spectrum, widths = stream.analysis(np.pad(samples, (0, 960))[None]), stream.erb_widths()
        bands = libdf.erb_norm(libdf.erb(spectrum, widths), 0.99)[:, None]
        low = libdf.unit_norm(np.ascontiguousarray(spectrum[..., :bins]), 0.99)
        features = (bands, np.stack([low.real, low.imag], 1))
        bands, low = (np.pad(x, ((0, 0), (0, 0), (0, ahead), (0, 0)))[:, :, ahead:] for x in features)
        *levels, state, near, _ = encode({"feat_erb": bands, "feat_spec": low})
        gains = gains_of({"emb": state, **{f"e{k}": level for k, level in enumerate(levels)}})[0]
        out = spectrum * libdf.erb_inv(gains[:, 0], widths)
        parts = filters_of({"emb": state, "c0": near})[0].reshape(-1, bins, order, 2)
        padded = np.pad(spectrum[0, :, :bins], ((order - 1 - ahead, ahead), (0, 0)))
        out[0, :, :bins] = sum(
            padded[k : k + len(parts)] * (parts[..., k, 0] + 1j * parts[..., k, 1]) for k in range(order)
        )
        return stream.synthesis(out.astype(np.complex64))[0]

    return process


def rnnoise(path: Path) -> Process:
    library = ctypes.CDLL(str(path))
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_create.argtypes = library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p] * 3

    def process(samples: np.ndarray) -> np.ndarray:
        state = library.rnnoise_create(None)
        frames = np.ascontiguousarray(in_frames(samples, 480) * np.float32(32768))
        for frame in frames:
            library.rnnoise_process_frame(state, frame.ctypes.data, frame.ctypes.data)
        library.rnnoise_destroy(state)
        return frames.ravel() / 32768

    return process


def rnnoise_package(folder: Path) -> Process:
    found = importlib.util.find_spec("pyrnnoise")
    assert found is not None and found.submodule_search_locations
    return rnnoise(Path(found.submodule_search_locations[0], "librnnoise.so"))


def webrtc(folder: Path) -> Process:
    from webrtc_noise_gain import AudioProcessor  # pyright: ignore[reportMissingImports]

    def process(samples: np.ndarray) -> np.ndarray:
        stream = AudioProcessor(0, 2)
        frames = np.clip(np.round(in_frames(samples, 160) * 32768), -32768, 32767).astype("<i2")
        out = b"".join(stream.Process10ms(frame.tobytes()).audio for frame in frames)
        return np.frombuffer(out, "<i2").astype(np.float32) / 32768

    return process


def noisereduce(folder: Path) -> Process:
    from noisereduce import reduce_noise  # pyright: ignore[reportMissingImports]

    return lambda samples: reduce_noise(y=samples, sr=16000, stationary=False)


def log_mmse(folder: Path) -> Process:
    from logmmse import logmmse  # pyright: ignore[reportMissingImports]

    return lambda samples: logmmse(np.pad(samples, (0, 960)), 16000)


LOADERS: dict[str, Callable[[Path], Process]] = {
    "GTCRN": gtcrn,
    "UL-UNAS": ul_unas,
    "DTLN": dtln,
    "DPCRN": dpcrn,
    "DeepFilterNet3": deepfilternet3,
    "FastEnhancer-B": fastenhancer,
    "RNNoise-0.1.1": lambda folder: rnnoise(folder / "librnnoise.so"),
    "RNNoise-0.2": rnnoise_package,
    "WebRTC-NS": webrtc,
    "noisereduce": noisereduce,
    "log-MMSE": log_mmse,
}


def described() -> dict[str, dict]:
    """Name -> what rivals.toml says of each program."""
    return tomllib.loads((HERE / "rivals.toml").read_text("utf-8"))


def check(rival: dict, folder: Path) -> None:
    """Refuse other code, weights or versions than rivals.toml names."""
    for name, sha256 in rival.get("files", {}).items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != sha256:
            sys.exit(f"{folder / name}: found SHA-256 {found}; expected {sha256}. Check out the commit that is named.")
    if "package" in rival:
        name, version = rival["package"].split("==")
        found = importlib.metadata.version(name)
        if found != version:
            sys.exit(f"{name}: found version {found}; expected {version}. Install that one.")


def aligned(process: Process, samples: np.ndarray, delay: int) -> np.ndarray:
    """What `process` makes of samples (n,), shifted back by its delay, and as long."""
    out = process(np.pad(samples, (0, delay)).astype(np.float32))[delay:]
    return np.pad(out, (0, max(0, len(samples) - len(out))))[: len(samples)]


def enhance(process: Process, rival: dict, samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Samples (n, channels) enhanced, each channel for itself, at the rate of the program."""
    there = rival["rate_hz"]
    out = []
    for channel in samples.T:
        back = soxr.resample(aligned(process, soxr.resample(channel, rate_hz, there), rival["delay"]), there, rate_hz)
        out.append(np.pad(back, (0, max(0, len(channel) - len(back))))[: len(channel)])
    return np.stack(out, 1)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=LOADERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("noisy", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(arguments)
    rival = described()[given.name]
    check(rival, given.folder)
    process = LOADERS[given.name](given.folder)
    given.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(given.noisy.iterdir()):
        target = given.out / f"{path.stem}.wav"
        if path.suffix.lower() in (".wav", ".flac") and not target.exists():
            samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
            unfinished = target.with_suffix(f".{os.getpid()}")
            soundfile.write(unfinished, enhance(process, rival, samples, rate_hz), rate_hz, "FLOAT", format="WAV")
            unfinished.replace(target)


if __name__ == "__main__":
    main(sys.argv[1:])
