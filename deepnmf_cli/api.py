"""Enhancement in one call, for arrays of any kind."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from deepnmf_cli import zoo
from deepnmf_cli.checkpoint import stamp
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.signal.activity import SpeechActivity
from deepnmf_cli.signal.foreign import from_foreign

Samples = TypeVar("Samples")

LOADED = 4
"""Number of models that stay loaded between calls."""


def enhance(
    samples: Samples,
    rate_hz: int,
    model: str | Path | Enhancer = zoo.DEFAULT_MODEL,
    *,
    channels_first: bool | None = None,
    max_attenuation_db: float | None = None,
    mix: float = 1.0,
    separate: bool = False,
    device: str = "auto",
    progress: Callable[[float], object] | None = None,
    activity: SpeechActivity | None = None,
) -> Samples:
    """Remove the noise from a recording and return the speech, of the same shape and type and aligned to the sample.

    Args:
        samples: A NumPy array or a torch tensor of shape (n,) for one channel, (n, channels) as soundfile returns, or
            (channels, n) as torchaudio and librosa return. Floats have full scale at 1; larger values are allowed, and
            nothing is clipped. Integers of type int16, int32, int8 or uint8 are interpreted as fractions of their full
            scale, and the result is rounded and clipped to it. Computation is in float32.
        rate_hz: Sampling rate in Hz, from 1 kHz to 768 kHz.
        model: The name of a shipped model, a model file or the folder of a run, or an `Enhancer`. The last four models
            given by name or path stay loaded until their files change.
        channels_first: Whether the shape is (channels, n). If None, an axis of at most 8 next to one of more than 64 is
            taken for the channels, and any other shape of two axes is refused.
        max_attenuation_db: Attenuate no frequency by more than this, which leaves some noise; None sets no limit.
        mix: Share of the enhanced sound in the result, 0 to 1; the rest is the input.
        separate: Give each channel a mask of its own, as the two sides of a call need; otherwise all channels share
            one, which keeps the stereo image.
        device: Where a model given by name or path runs: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: Called every four seconds of audio with the seconds that were done since the last call.
        activity: Records when there is speech; each recording needs a new one.

    Returns:
        A new array of the same type, shape and dtype as `samples`; a tensor is on the same device, without gradients.
        Anything that is not an array becomes a NumPy array.

    Raises:
        AudioError: If the samples are not a recording, their shape is ambiguous, or the rate is impossible.
        ModelError: If the model is unknown or damaged.
        UsageError: If another value is out of range.

    Examples:
        >>> import numpy as np
        >>> noisy = 0.1 * np.random.default_rng(0).standard_normal((48000, 2))
        >>> speech = enhance(noisy, 48000)
        >>> speech.shape, speech.dtype
        ((48000, 2), dtype('float64'))
        >>> bool(abs(speech).mean() < 0.1 * abs(noisy).mean())
        True
    """
    enhancer = model if isinstance(model, Enhancer) else _loaded(*_identity(model), device)
    given, restored = from_foreign(samples, channels_first)
    return restored(enhancer.enhance(given, rate_hz, max_attenuation_db, mix, separate, progress, activity))


def _identity(model: str | Path) -> tuple[Path, int, int]:
    """Return the file of a model, its size and its modification time, which identify a loaded model."""
    path = zoo.find(model).absolute()
    return path, *stamp(path)


@lru_cache(maxsize=LOADED)
def _loaded(path: Path, size: int, changed_ns: int, device: str) -> Enhancer:
    return zoo.load_enhancer(path, device)
