"""Enhancement by pieces: feed samples in, get samples out, at any sampling rate and with any size of chunk."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnmf_cli.networks.base import MaskNetwork
from deepnmf_cli.signal.stft import FrontEnd, StftPair

HIGHEST_BAND_HZ = 500
"""Width of the band at the network's upper end whose mean mask serves all frequencies above its reach."""


@dataclass
class _State:
    """What is remembered between two chunks: C channels, hop samples per frame."""

    pending: Tensor  # (C, < hop) samples that do not fill a hop yet
    last_hop: Tensor  # (C, hop) first half of the next window
    overlap: Tensor  # (C, hop) second half of the last synthesised window
    network: Any  # the network's own state
    received: int  # samples fed so far
    delivered: int  # samples returned so far
    begun: bool  # whether the hop before the first sample has been dropped


class StreamingEnhancer:
    """Enhance one recording, chunk by chunk; the concatenated output is aligned with the input, sample by sample.

    Every chunk of whole hops runs analysis, network, mask and synthesis once, so the offline result is the same code
    fed with large chunks. All channels share one mask per frame and frequency, computed from the mean of their
    magnitudes, so the stereo image stays (and channels of opposite phase do not cancel before the network hears them).
    """

    def __init__(
        self,
        network: MaskNetwork,
        front_end: FrontEnd,
        rate_hz: int,
        channels: int,
        max_attenuation_db: float | None = None,
        device: str | torch.device = "cpu",
        mix: float = 1.0,
    ) -> None:
        """`max_attenuation_db` >= 0 limits how far any bin is attenuated; None sets no limit.

        The output is `mix` times what was enhanced so, plus 1 - `mix` times the input, `mix` in [0, 1].
        """
        self.network, self.channels, self.device = network, channels, device
        self.pair: StftPair = front_end.pair(rate_hz)
        self.bins = front_end.bins
        self._top_bins = max(1, round(HIGHEST_BAND_HZ / (front_end.rate_hz / 2) * self.bins))
        self._floor = 0.0 if max_attenuation_db is None else 10 ** (-max_attenuation_db / 20)
        self._mix = mix
        self.reset()

    @property
    def latency_samples(self) -> int:
        """Samples by which the output lags behind the input: one window."""
        return self.pair.window_samples

    def reset(self) -> None:
        """Forget the recording; the next chunk starts a new one."""
        empty = torch.zeros(self.channels, self.pair.hop_samples, device=self.device)
        self._state = _State(empty[:, :0], empty, empty, None, received=0, delivered=0, begun=False)

    @torch.inference_mode()
    def feed(self, samples: Tensor) -> Tensor:
        """Take samples (C, n) float32, n >= 0; return as many enhanced samples (C, m) as are final."""
        if samples.ndim != 2 or samples.shape[0] != self.channels:
            raise ValueError(f"expected samples of shape ({self.channels}, n), found {tuple(samples.shape)}")
        state, hop = self._state, self.pair.hop_samples
        state.received += samples.shape[-1]
        waiting = torch.cat([state.pending, samples.to(self.device, torch.float32)], -1)
        whole = waiting.shape[-1] // hop * hop
        state.pending = waiting[:, whole:]
        return self._advance(waiting[:, :whole])

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """Return the samples (C, m) still under way and reset: in all, as many come out as went in."""
        state, hop = self._state, self.pair.hop_samples
        missing = -state.pending.shape[-1] % hop + hop
        rest = self._advance(torch.nn.functional.pad(state.pending, (0, missing)))
        rest = rest[:, : state.received - (state.delivered - rest.shape[-1])]
        self.reset()
        return rest

    def _advance(self, hops: Tensor) -> Tensor:
        """Run whole hops (C, T * hop) through the network and return what became final."""
        state, hop = self._state, self.pair.hop_samples
        if hops.shape[-1] == 0:
            return hops
        spectrum = self.pair.frames(torch.cat([state.last_hop, hops], -1))
        enhanced = self.pair.overlap_add(spectrum * self._mask(spectrum))
        final = enhanced[:, :-hop]
        final[:, :hop] += state.overlap
        state.last_hop, state.overlap = hops[:, -hop:], enhanced[:, -hop:]
        if not state.begun:
            state.begun, final = True, final[:, hop:]
        state.delivered += final.shape[-1]
        return final

    def _mask(self, spectrum: Tensor) -> Tensor:
        """The speech mask (F', T) of spectra (C, F', T): F' bins of this sampling rate, from the network's F bins."""
        magnitude = spectrum.abs().mean(0)
        missing = self.bins - magnitude.shape[0]
        heard = torch.nn.functional.pad(magnitude, (0, 0, 0, missing)) if missing > 0 else magnitude[: self.bins]
        masks, self._state.network = self.network(heard[None], self._state.network)
        mask = masks[0, 0]
        if missing > 0:
            mask = mask[: magnitude.shape[0]]
        elif missing < 0:
            above = mask[-self._top_bins :].mean(0, keepdim=True).expand(-missing, -1)
            mask = torch.cat([mask, above])
        # Synthesis is linear and exact, so that masks may be mixed in the place of signals.
        return self._mix * mask.clamp_min(self._floor) + (1 - self._mix)
