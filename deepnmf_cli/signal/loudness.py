"""Loudness by EBU R 128 (ITU-R BS.1770-4), measured by FFmpeg, and one gain that brings a recording to a target."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from deepnmf_cli import extras
from deepnmf_cli.errors import UsageError
from deepnmf_cli.signal.audio import BLOCK_FRAMES, Process, explaining
from deepnmf_cli.signal.media_writer import LAYOUTS

SOFTEST_LUFS, LOUDEST_LUFS = -70.0, -5.0
"""Range of targets: from the gate below which R 128 ignores sound to what speech cannot reach without limiting."""

PEAK_DBTP = -1.0
"""Highest true peak of an output, as EBU R 128 recommends for what is sent out."""

_PEAK_STEP = 0.0005
"""FFmpeg's filter rounds peaks to three decimals; this is added to be on the safe side."""


def check(target_lufs: float, removed: str | Path | None) -> None:
    """Raise UsageError for a target out of range or with a file of the noise, and MissingExtraError without PyAV."""
    if not SOFTEST_LUFS <= target_lufs <= LOUDEST_LUFS:
        expected = f"{SOFTEST_LUFS:g} to {LOUDEST_LUFS:g} LUFS"
        raise UsageError("--loudness", f"{target_lufs:g}", expected, "Podcasts take -16, broadcasts -23.")
    if removed is not None:
        found, remedy = "--noise-out beside it", "Leave one of them out: with a gain, speech + noise is not the input."
        raise UsageError("--loudness", found, "one of the two", remedy)
    extras.require("media", "--loudness")


@dataclass(frozen=True)
class Loudness:
    """Integrated loudness in LUFS before and after the gain, None for silence, and a note for the user."""

    before: float | None
    after: float | None
    note: str = ""


LEAST_RATE_HZ = 8000
"""Lower rates are resampled to this one: the weighting of EBU R 128 has a corner at 1.7 kHz, which they may lack."""


class Meter:
    """Integrated loudness and true peak of blocks (channels, n) float, in bounded memory, by FFmpeg's `ebur128`."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        from av.filter import Graph

        self._channels = channels
        self._rate_hz, self._layout, self._frames = rate_hz, LAYOUTS.get(channels, f"{channels} channels"), 0
        unit = Fraction(1, rate_hz)
        graph: Any = Graph()
        self._source = graph.add_abuffer(sample_rate=rate_hz, format="flt", layout=self._layout, time_base=unit)
        meter = graph.add("ebur128", "peak=true:framelog=quiet:metadata=1")
        self._sink = graph.add("abuffersink")
        if rate_hz < LEAST_RATE_HZ:
            finer = graph.add("aresample", str(LEAST_RATE_HZ))
            self._source.link_to(finer)
            finer.link_to(meter)
        else:
            self._source.link_to(meter)
        meter.link_to(self._sink)
        graph.configure()
        self._graph = graph
        self._found: dict[str, str] = {}

    def push(self, block: np.ndarray) -> None:
        import av

        samples = np.ascontiguousarray(block.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=self._layout)
        frame.rate, frame.pts, frame.time_base = self._rate_hz, self._frames, Fraction(1, self._rate_hz)
        self._frames += block.shape[1]
        self._source.push(frame)
        self._pull()

    def result(self) -> tuple[float, float]:
        """(loudness in LUFS, -inf for silence; true peak as a factor of full scale, not underestimated)."""
        loudness = float(self._found.get("lavfi.r128.I", -math.inf))
        # The filter reports every 100 ms: added silence makes it report the peak of the last samples.
        self.push(np.zeros((self._channels, self._rate_hz // 5 + 1)))
        peaks = [float(value) for name, value in self._found.items() if name.startswith("lavfi.r128.true_peaks_ch")]
        heard = loudness > SOFTEST_LUFS
        return (loudness if heard else -math.inf), max(peaks, default=0.0) + _PEAK_STEP

    def _pull(self) -> None:
        from av.error import BlockingIOError, EOFError

        while True:
            try:
                self._found = dict(self._sink.pull().metadata) or self._found
            except (BlockingIOError, EOFError):
                return


class Leveller:
    """Brings the output of a process to `target_lufs` by one gain, which keeps the true peak below `PEAK_DBTP`.

    This takes the whole signal, which waits as float32 in an unnamed temporary file in the folder of `target`.
    """

    def __init__(self, target_lufs: float, target: str | Path) -> None:
        self.target_lufs, self.target = target_lufs, Path(target)
        self.loudness: Loudness | None = None
        """The measured loudness, once the whole signal has been processed."""

    def after(self, process: Process, progress: Callable[[float], object]) -> Process:
        """Return the process followed by the gain; `progress` receives the seconds that `process` has returned."""

        def levelled(blocks: Iterable[np.ndarray], rate_hz: int, channels: int) -> Iterator[np.ndarray]:
            meter = Meter(rate_hz, channels)
            with explaining(self.target):
                file = tempfile.TemporaryFile(dir=self.target.parent)  # noqa: SIM115  closed below
            with file as waiting:
                for block in process(blocks, rate_hz, channels):  # whose errors are not those of writing
                    meter.push(block)
                    with explaining(self.target):
                        waiting.write(block.T.astype(np.float32).tobytes())
                    progress(block.shape[1] / rate_hz)
                gain = self._gain(*meter.result())
                with explaining(self.target):
                    waiting.seek(0)
                while data := waiting.read(4 * channels * BLOCK_FRAMES):
                    yield gain * np.frombuffer(data, np.float32).reshape(-1, channels).T

        return levelled

    def _gain(self, loudness: float, peak: float) -> np.float32:
        if loudness == -math.inf:
            self.loudness = Loudness(None, None, "it is silent, or below 0.4 s: its level was left as it is")
            return np.float32(1)
        wanted_db, most_db = self.target_lufs - loudness, PEAK_DBTP - 20 * math.log10(peak)
        gain_db = min(wanted_db, most_db)
        note = ""
        if most_db < wanted_db:
            reached = f"it reaches {loudness + gain_db:.1f} LUFS and not {self.target_lufs:g}"
            note = f"{reached}, as its peaks would rise above {PEAK_DBTP:g} dBTP"
        self.loudness = Loudness(round(loudness, 2), round(loudness + gain_db, 2), note)
        return np.float32(10 ** (gain_db / 20))
