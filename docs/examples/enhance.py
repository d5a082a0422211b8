"""Enhance a recording with an exported model and nothing of deepnmf: python enhance.py MODEL NOISY CLEAN

MODEL is what `deepnmf export base --streaming -o base.streaming.onnx` writes. Needs numpy, onnxruntime and soundfile.
One channel, at the rate of the model; every frame is handled as if it had just been recorded.
"""

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

import numpy as np
import onnxruntime
import soundfile


class RunningMean:
    """Forgets in 250 hops, and runs in a straight line from hop to hop; starts anew where all is silent."""

    def __init__(self, hop: int) -> None:
        self.rise, self.sum, self.weight, self.last = np.arange(1, hop + 1) / hop, 0.0, 0.0, None

    def __call__(self, value: float, silent: bool = False) -> np.ndarray:
        keep, new = (0, 0) if silent else (1 - 1 / 250, 1)
        self.sum, self.weight = keep * self.sum + new * value, keep * self.weight + new
        before, self.last = self.last, self.sum / (self.weight or 1)
        before = self.last if before is None else before
        return before + (self.last - before) * self.rise


class Denoiser:
    """One hop of samples in, one hop of speech out, which lags a window less a hop behind."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path)
        meta = json.loads(self.session.get_modelmeta().custom_metadata_map["deepnmf"])
        self.rate_hz, front = meta["front_end"]["rate_hz"], meta["front_end"]
        self.hop = round(self.rate_hz * front["hop_s"])
        size = front["window_hops"] * self.hop  # 2 hops: a square-root Hann window, at analysis and at synthesis
        rising, falling = np.arange(size - self.hop) / (size - self.hop), np.arange(self.hop) / self.hop
        self.analysis = np.concatenate([np.sin(np.pi / 2 * rising), np.cos(np.pi / 2 * falling)])
        hann = np.sin(np.pi * np.arange(2 * self.hop) / (2 * self.hop)) ** 2
        self.synthesis = hann / np.maximum(self.analysis[-2 * self.hop :], 1e-9)
        self.past, self.overlap, self.before = np.zeros(size), np.zeros(self.hop), np.zeros(size // 2 + 1)
        self.offset, self.reciprocal, self.waiting = RunningMean(self.hop), RunningMean(self.hop), 0.0
        self.features, *inputs = self.session.get_inputs()  # "magnitude", or "features" with phase
        self.states = {i.name: np.zeros(i.shape, np.float32) for i in inputs}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        offset = self.offset(samples.mean(), silent=not samples.any())  # a constant one is no sound, and misleads
        self.past = np.concatenate([self.past[self.hop :], samples - offset])
        spectrum = np.fft.rfft(self.past * self.analysis) / self.analysis.sum()
        features = np.abs(spectrum)
        if self.features.name == "features":  # products with the frame before, turned by a hop, and the next bin
            turn = np.exp(2j * np.pi * self.hop / len(self.past) * np.arange(len(spectrum)))
            products = [spectrum * other.conj() for other in (self.before * turn, np.append(spectrum[1:], 0))]
            features = np.stack([features, *(part for x in products for part in (x.real, x.imag))])
        features, self.before = features[None, ..., None].astype(np.float32), spectrum
        masks, *states = self.session.run(None, {self.features.name: features, **self.states})
        self.states = dict(zip(self.states, states))
        mask = masks[0, 0, :, 0] + (1j * masks[0, 2, :, 0] if masks.shape[1] == 3 else 0)
        speech = np.fft.irfft(spectrum * mask * self.analysis.sum())[-2 * self.hop :] * self.synthesis
        ready, self.overlap = self.overlap + speech[: self.hop], speech[self.hop :]
        # The offset comes back with the least gain of any frequency, in the long run.
        ready += self.waiting / self.reciprocal(1 / max(abs(mask).min(), 1e-6))
        self.waiting = offset
        return ready


def main(model: str, noisy: str, clean: str) -> None:
    denoise = Denoiser(model)
    samples, rate_hz = soundfile.read(noisy)
    if rate_hz != denoise.rate_hz or samples.ndim != 1:
        sys.exit(f"{noisy}: one channel at {denoise.rate_hz} Hz is expected.")
    padded = np.pad(samples, (0, -len(samples) % denoise.hop + denoise.hop))
    hops = [denoise(hop) for hop in padded.reshape(-1, denoise.hop)]
    steps = np.rint(32768 * np.concatenate(hops[1:])[: len(samples)]).clip(-32768, 32767)
    soundfile.write(clean, steps.astype(np.int16), rate_hz)


if __name__ == "__main__":
    main(*sys.argv[1:])
