"""Speech enhancement by deep unfolding: model-based inference, unfolded into networks and trained.

`enhance(samples, rate_hz)` enhances an array in one call. `load_enhancer()` returns an `Enhancer` for whole recordings;
its method `stream(rate_hz, channels)` starts a `StreamingEnhancer` for sound that arrives in pieces, and
`enhance_file(enhancer, source, target)` applies it from file to file.

Importing the package sets ORT_DISABLE_TELEMETRY=1, unless that variable already has a value.
"""

import os
from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; importing typing would take a tenth of the start-up
if TYPE_CHECKING:
    from deepnmf_cli.api import enhance
    from deepnmf_cli.enhancer import Enhancer
    from deepnmf_cli.signal.activity import SpeechActivity
    from deepnmf_cli.streaming import StreamingEnhancer
    from deepnmf_cli.treatment import Treatment, enhance_file
    from deepnmf_cli.zoo import load_enhancer

# ONNX Runtime would store an identifier of this machine in the user's home folder and send usage reports. It reads the
# variable when it is imported, which other packages may do before the modules of this one. The value 0 permits both.
if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.3.0"
__all__ = [
    "Enhancer", "SpeechActivity", "StreamingEnhancer", "Treatment", "enhance", "enhance_file", "load_enhancer",
]  # fmt: skip

_MODULES = {
    "Enhancer": "enhancer", "SpeechActivity": "signal.activity", "StreamingEnhancer": "streaming", "enhance": "api",
    "enhance_file": "treatment", "load_enhancer": "zoo", "Treatment": "treatment",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a name of the Python interface on first access, so that the command line starts without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
