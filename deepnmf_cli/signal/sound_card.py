"""A microphone and a loudspeaker, block by block, through the optional package sounddevice (PortAudio)."""

import math
from collections.abc import Iterator
from queue import Empty, Full, Queue
from threading import Lock
from types import ModuleType
from typing import Any, Self

import numpy as np

from deepnmf_cli import extras
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.formats import check_shape

WAITING_BLOCKS = 64
"""Most blocks from the microphone that wait; when the computation is slower than the sound, further ones are lost."""

SILENT_S = 2.0
"""Time without a block after which the device counts as gone, far more than any device buffers."""

QUIETEST_DBFS = -99.0


def sounddevice() -> ModuleType:
    """The optional package. Raises DeepnmfError when it, or the PortAudio library that it loads, is missing."""
    extras.require("live", "--live")
    try:
        import sounddevice
    except OSError as error:
        remedy = "Install it, for example with `apt install libportaudio2`."
        raise AudioError("--live", f"no PortAudio ({error})", "that library for sound cards", remedy) from error
    return sounddevice


def default_rate_hz(input_device: int | str | None) -> int:
    """The sampling rate that the microphone prefers. Raises AudioError when there is no such device."""
    package = sounddevice()
    try:
        return round(package.query_devices(input_device, "input")["default_samplerate"])
    except (package.PortAudioError, ValueError) as error:
        raise _unusable(error) from error


class SoundCard:
    """Sound in and out at the same time; a context manager.

    The callback of the device moves blocks between two queues and counts; everything else happens in the thread that
    iterates over `blocks` and calls `play`. What is played lags `delay_blocks` behind what is recorded, enough for
    a process that holds back `latency_samples` and takes up to a block's time for each block.
    """

    def __init__(
        self,
        rate_hz: int,
        channels: int,
        block_frames: int,
        latency_samples: int,
        input_device: int | str | None = None,
        output_device: int | str | None = None,
    ) -> None:
        """Devices are numbers or parts of names, None the default. Raises AudioError if they cannot be used."""
        check_shape("--live", channels, rate_hz, is_array=False)
        package = sounddevice()
        self.channels, self.block_frames = channels, block_frames
        self.delay_blocks = 1 + math.ceil(latency_samples / block_frames)
        self.recorded = 0
        """Number of blocks from the microphone."""
        self.late = 0
        """Blocks that were not there when the loudspeaker needed them; it played silence instead."""
        self.lost = 0
        """Blocks that were dropped on either side to keep the delay, and those that the device itself reports."""
        self._silent_s = SILENT_S + 2 * block_frames / rate_hz
        self._owed = 0
        """Blocks for which silence was played, and which are dropped when they come: the delay must not grow."""
        self._counting = Lock()
        self._heard: Queue[np.ndarray] = Queue(WAITING_BLOCKS)
        self._playing: Queue[np.ndarray] = Queue(self.delay_blocks)
        for _ in range(self.delay_blocks):
            self._playing.put(np.zeros((block_frames, channels), np.float32))
        self._unplayed = np.empty((channels, 0), np.float32)
        try:
            self._stream = package.Stream(
                samplerate=rate_hz, blocksize=block_frames, device=(input_device, output_device), channels=channels,
                dtype="float32", latency="low", callback=self._move,
            )  # fmt: skip
        except (package.PortAudioError, ValueError) as error:
            raise _unusable(error) from error

    def __enter__(self) -> Self:
        try:
            self._stream.start()
        except sounddevice().PortAudioError as error:
            self._stream.close()
            raise _unusable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks (channels, block_frames) float32 as they are recorded, without end.

        Raises AudioError when none comes for SILENT_S and the time of two blocks.
        """
        while True:
            try:
                yield np.ascontiguousarray(self._heard.get(timeout=self._silent_s).T)
            except Empty:
                remedy = "Is it still connected? Choose another with --input-device."
                raise AudioError(
                    "microphone", f"no sound for {self._silent_s:.0f} s", "a running device", remedy
                ) from None

    def play(self, samples: np.ndarray) -> None:
        """Queue samples (channels, n), n >= 0, for playing."""
        samples, size = np.concatenate([self._unplayed, samples], axis=1), self.block_frames
        whole = samples.shape[1] // size * size
        for start in range(0, whole, size):
            if self._is_owed():
                self.lost += 1
                continue
            try:
                self._playing.put_nowait(samples[:, start : start + size].T)
            except Full:
                self.lost += 1
        self._unplayed = samples[:, whole:]

    def _is_owed(self) -> bool:
        """Return whether silence was played for the next block."""
        with self._counting:
            owed = self._owed > 0
            self._owed -= owed
            return owed

    def _move(self, recorded: np.ndarray, played: np.ndarray, frames: int, time: Any, status: Any) -> None:
        """The device's callback, in a thread of its own: arrays (block_frames, channels), the second to be filled."""
        self.recorded += 1
        self.lost += bool(status)
        try:
            self._heard.put_nowait(recorded.copy())
        except Full:
            self.lost += 1
            self._owe(-1)  # nothing will come for this block, and silence is played for it
        try:
            played[:] = self._playing.get_nowait()
        except Empty:
            played.fill(0)
            self.late += 1
            self._owe(1)

    def _owe(self, blocks: int) -> None:
        with self._counting:
            self._owed += blocks


def level_dbfs(samples: np.ndarray) -> float:
    """Root mean square of samples in dB relative to full scale, at least QUIETEST_DBFS."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return max(QUIETEST_DBFS, 10 * math.log10(power)) if power > 0 else QUIETEST_DBFS


def _unusable(error: Exception) -> AudioError:
    remedy = "See `deepnmf stream --list-devices`; try another --rate or --channels."
    return AudioError("--live", f"devices that cannot be used ({error})", "a microphone and a loudspeaker", remedy)
