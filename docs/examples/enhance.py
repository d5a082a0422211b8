"""Enhance a recording with an exported model and nothing of deepnmf: python enhance.py MODEL NOISY CLEAN

MODEL is what `deepnmf export base --streaming -o base.streaming.onnx` writes. Needs numpy, onnxruntime and soundfile.
One channel, at the rate of the model; every frame is handled as if it had just been recorded.
"""

import json
import sys

import numpy as np
import onnxruntime
import soundfile


class Denoiser:
    """One hop of samples in, one hop of speech out, which lags a window less a hop behind."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path)
        meta = json.loads(self.session.get_modelmeta().custom_metadata_map["deepnmf"])
        self.rate_hz, front = meta["front_end"]["rate_hz"], meta["front_end"]
        self.hop = round(self.rate_hz * front["hop_s"])
        size = front["window_hops"] * self.hop  # 2 hops: a square-root Hann window, at analysis and at synthesis
        rise = size - self.hop
        self.analysis = np.concatenate(
            [np.sin(np.pi / 2 * np.arange(rise) / rise), np.cos(np.pi / 2 * np.arange(self.hop) / self.hop)]
        )
        hann = np.sin(np.pi * np.arange(2 * self.hop) / (2 * self.hop)) ** 2
        self.synthesis = hann / np.maximum(self.analysis[-2 * self.hop :], 1e-9)
        self.past, self.overlap = np.zeros(size), np.zeros(self.hop)
        inputs = [i for i in self.session.get_inputs() if i.name != "magnitude"]
        self.states = {i.name: np.zeros(i.shape, np.float32) for i in inputs}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        self.past = np.concatenate([self.past[self.hop :], samples])
        spectrum = np.fft.rfft(self.past * self.analysis)
        magnitude = np.abs(spectrum / self.analysis.sum()).astype(np.float32)
        masks, *states = self.session.run(None, {"magnitude": magnitude[None, :, None], **self.states})
        self.states = dict(zip(self.states, states))
        speech = np.fft.irfft(spectrum * masks[0, 0, :, 0])[-2 * self.hop :] * self.synthesis
        ready, self.overlap = self.overlap + speech[: self.hop], speech[self.hop :]
        return ready


def main(model: str, noisy: str, clean: str) -> None:
    denoise = Denoiser(model)
    samples, rate_hz = soundfile.read(noisy)
    if rate_hz != denoise.rate_hz or samples.ndim != 1:
        sys.exit(f"{noisy}: one channel at {denoise.rate_hz} Hz is expected.")
    padded = np.pad(samples, (0, -len(samples) % denoise.hop + denoise.hop))
    hops = [denoise(hop) for hop in padded.reshape(-1, denoise.hop)]
    soundfile.write(clean, np.concatenate(hops[1:])[: len(samples)], rate_hz)


if __name__ == "__main__":
    main(*sys.argv[1:])
