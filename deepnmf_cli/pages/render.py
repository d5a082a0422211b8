"""Render templates, pictures and sounds to one HTML file, which a browser shows from disk and without a network."""

import base64
import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jinja2 import Environment

SHADES = 64
"""Number of colours of a picture: more would look the same and compress worse."""

RANGE_DB = 70.0
"""Range in dB below the loudest level in which a spectrogram differs from black."""

HIGHEST_HZ = 48_000
"""Sounds with higher sampling rates are resampled to this one, because browsers refuse some of them."""

MOST_CHANNELS = 2
"""Sounds with more channels are mixed down to one."""


def render(template: str, **content: Any) -> str:
    """Return the page made from a template of this package and its content; text in the content is escaped."""
    return _environment().get_template(template).render(**content)


def shades(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Return the shade of each value, uint8: 0 for `lowest` and what is below, SHADES - 1 for `highest`."""
    share = (np.asarray(values, np.float64) - lowest) / max(highest - lowest, 1e-12)
    return np.clip(np.rint(share * (SHADES - 1)), 0, SHADES - 1).astype(np.uint8)


def coloured(values: np.ndarray, lowest: float, highest: float, colours: str = "magma") -> np.ndarray:
    """Return an image (F, T, 3) uint8 of values (F, T), the first row at the bottom, in `colours` of matplotlib."""
    return _palette(colours)[shades(values, lowest, highest)[::-1]]


def picture(values: np.ndarray, lowest: float, highest: float, colours: str = "magma") -> str:
    """Return the same image as a PNG in a data URI."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(shades(values, lowest, highest)[::-1]))
    image.putpalette(_palette(colours).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return data_uri("image/png", file.getvalue())


def _palette(colours: str) -> np.ndarray:
    from matplotlib import colormaps

    return (colormaps[colours](np.linspace(0, 1, SHADES))[:, :3] * 255).astype(np.uint8)


def sound(samples: np.ndarray, rate_hz: int) -> str:
    """Return samples (C, N) in [-1, 1] as a data URI: FLAC of 16 bits, which every browser plays."""
    import soundfile

    if len(samples) > MOST_CHANNELS:
        samples = samples.mean(0, keepdims=True)
    if rate_hz > HIGHEST_HZ:
        import soxr

        samples, rate_hz = soxr.resample(samples.T, rate_hz, HIGHEST_HZ).T, HIGHEST_HZ
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples.T, -1, 1), rate_hz, "PCM_16", format="FLAC")
    return data_uri("audio/flac", file.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Return `content` of the media type `kind` as a data URI, which contains it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
