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
"""Models that stay loaded between calls."""


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
    """Remove the noise from a recording; returns speech of the same shape and kind, aligned with it to the sample.

    Args:
        samples: A NumPy array or a torch tensor: one channel (n,), (n, channels) as soundfile gives, or (channels, n)
            as torchaudio and librosa give. Floats have full scale at 1; larger values are fine, and nothing is clipped.
            Integers, of type int16, int32, int8 or uint8, are taken as fractions of their full scale, and the result is
            rounded and clipped to it. Computation is in float32.
        rate_hz: Sampling rate, 1 to 768 kHz.
        model: The name of a model that ships, a model file or the folder of a run, or an `Enhancer`. The last four
            models that were named stay loaded, until their files change.
        channels_first: Whether the shape is (channels, n). Left out, an axis of at most 8 beside one of more than 64
            is that of the channels, and all else is refused.
        max_attenuation_db: Attenuate no frequency by more than this, which leaves some noise; None sets no limit.
        mix: Share of the enhanced sound in the result, 0 to 1, the rest being the input.
        separate: Give each channel a mask of its own, as the two sides of a call need; otherwise all share one, which
            keeps the stereo image.
        device: Where a model that is named runs: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: Called with the seconds of audio that were done, every four of them.
        activity: Takes down when there is speech, a new one for each recording.

    Returns:
        A new array of the type, shape and numbers of `samples`; a tensor on its device, without gradients. What is no
        array becomes one of NumPy.

    Raises:
        AudioError: For samples that are no recording, a shape that is not clear, and impossible rates.
        ModelError: For a model that is unknown or damaged.
        UsageError: For other values out of range.

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
    """The file of a model, its size, and when it was changed: what a loaded one is known by."""
    path = zoo.find(model).absolute()
    return path, *stamp(path)


@lru_cache(maxsize=LOADED)
def _loaded(path: Path, size: int, changed_ns: int, device: str) -> Enhancer:
    return zoo.load_enhancer(path, device)
