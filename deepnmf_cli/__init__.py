"""Speech enhancement by deep unfolding: model-based inference, unfolded into networks and trained.

`enhance(samples, rate_hz)` enhances an array in one call. `load_enhancer()` gives an `Enhancer` for whole recordings;
its `stream(rate_hz, channels)` begins a `StreamingEnhancer` for sound that arrives by pieces.

Importing the package sets ORT_DISABLE_TELEMETRY=1, unless that variable has a value already.
"""

import os
from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; the module typing would be a tenth of the start
if TYPE_CHECKING:
    from deepnmf_cli.api import enhance
    from deepnmf_cli.enhancer import Enhancer
    from deepnmf_cli.signal.activity import SpeechActivity
    from deepnmf_cli.streaming import StreamingEnhancer
    from deepnmf_cli.zoo import load_enhancer

# ONNX Runtime would keep an identifier of this machine in the user's home, and send reports of its use. It reads the
# variable when it is imported, which other packages may do before this one's modules; 0 lets it have its way.
if not os.environ.get("ORT_DISABLE_TELEMETRY"):
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.2.0"
__all__ = ["Enhancer", "SpeechActivity", "StreamingEnhancer", "enhance", "load_enhancer"]

_MODULES = {
    "Enhancer": "enhancer", "SpeechActivity": "signal.activity", "StreamingEnhancer": "streaming", "enhance": "api",
    "load_enhancer": "zoo",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a name of the Python interface when it is first asked for: the command line starts without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
