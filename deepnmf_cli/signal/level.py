"""The first steps of networks on magnitudes: make them independent of the level, and add past frames as context."""

import torch
from torch import Tensor

from deepnmf_cli.kernels.recursion import relax
from deepnmf_cli.signal.features import features

SILENCE = 1e-15
"""Root-mean-square magnitude below which a frame counts as digital silence. No recording of 32 bits or fewer reaches
down here (white rounding noise of 24 bits lies at 2e-9), so only frames of zeros do, whatever the gain: everything else
scales exactly with the input. Its square is still a normal float32."""

LEVEL_TIME_CONSTANT_FRAMES = 250
"""Time constant of the level: 4 s at 16 ms hops, longer than pauses in speech, shorter than a change of room."""


def modulus(spectrum: Tensor) -> Tensor:
    """|z| of a complex tensor without a gradient: three times as fast as `abs`, which guards against overflow."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.addcmul(real.square(), imaginary, imaginary).sqrt_()


def mixture_of(spectra: Tensor) -> Tensor:
    """Speech plus noise (B, F, T) of complex spectra (B, 2, F, T): several times as fast as their `sum`."""
    return spectra[:, 0] + spectra[:, 1]


def normalise_level(magnitude: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Divide magnitudes (B, F, T) by their running level, so that networks are independent of the recording's gain.

    Returns the normalised magnitudes (B, F, T) and the state, as `running_level` does.
    """
    level, state = running_level(magnitude, state)
    return magnitude / level[:, None], state


def normalised_magnitudes(spectrum: Tensor) -> Tensor:
    """Return level-normalised magnitudes (B, F, T) of the spectra (B, F, T) of whole recordings of one channel."""
    return normalise_level(features(spectrum[:, None], None, 0, with_phase=False, modulus=modulus))[0]


def running_level(magnitude: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The level (B, T) of magnitudes (B, F, T), and the state (B, 2) to be passed with the next block: smoothed power
    and weight, zeros at the start of a recording.

    The level is the root of an exponentially forgetting mean of the frames' power, over the frames that are not
    digitally silent: causal, exact from the first frame on, and proportional to the input.
    """
    power = magnitude.square().mean(-2)
    # Silent frames neither add nor forget: a pause of digital zeros leaves the level as it was.
    forget = (power > SILENCE**2).to(power.dtype) / LEVEL_TIME_CONSTANT_FRAMES
    targets = torch.stack([power, torch.ones_like(power)], -1).transpose(0, 1)
    state = magnitude.new_zeros(magnitude.shape[0], 2) if state is None else state
    sums = relax(targets, forget.T[..., None].expand_as(targets), state)
    mean_power, weight = sums.transpose(0, 1).unbind(-1)
    return (mean_power / weight.clamp_min(1 / LEVEL_TIME_CONSTANT_FRAMES)).sqrt().clamp_min(SILENCE), sums[-1]


def stack_context(frames: Tensor, context: int, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Stack each frame with its predecessors: (B, F, T) -> (B, context * F, T), oldest first, the frame itself last.

    `past` (B, F, context - 1) holds the frames before the block; before the start of a recording they are zero. Returns
    the stacked frames and the `past` for the next block.
    """
    if past is None:
        past = frames.new_zeros(*frames.shape[:2], context - 1)
    extended = torch.cat([past, frames], -1)
    length = frames.shape[-1]
    stacked = torch.cat([extended[..., lag : lag + length] for lag in range(context)], -2)
    return stacked, extended[..., length:]
