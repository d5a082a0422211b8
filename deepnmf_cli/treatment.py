"""From file to file: what is done to a recording on its way, in bounded memory."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepnmf_cli import checkpoint
from deepnmf_cli.enhancer import Enhancer
from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal import audio, coherence
from deepnmf_cli.signal.activity import SpeechActivity, Stretch
from deepnmf_cli.signal.formats import AudioInfo
from deepnmf_cli.signal.rewrite import Rewritten, rewrite

if TYPE_CHECKING:
    from deepnmf_cli.repair.examine import RepairOptions
    from deepnmf_cli.signal.loudness import Loudness

LONGEST_S = 60.0
"""Longest part of a noise profile that is used."""

Progress = Callable[[float], object]
"""Called with the seconds of audio done since the last call."""


@dataclass(frozen=True)
class NoiseProfile:
    """Seconds `start_s` to `end_s` (None: the end) of `file`, or of each recording itself if that is None."""

    file: str | None
    start_s: float = 0.0
    end_s: float | None = None

    def of_file(self, enhancer: Enhancer) -> Enhancer:
        """Return the enhancer with atoms for the noise in `file`; see `taught`."""
        assert self.file is not None
        return self.taught(enhancer, self.file, self.file)

    def taught(
        self, enhancer: Enhancer, source: str | Path, name: str, process: audio.Process | None = None
    ) -> Enhancer:
        """Return the enhancer with atoms for the noise in the stretch of `source`, or of what `process` makes of it.

        `name` stands for the source in messages. Raises UsageError for a model without atoms, and AudioError for a
        stretch that is missing, too short or silent.
        """
        last_s = self.start_s + LONGEST_S if self.end_s is None else min(self.end_s, self.start_s + LONGEST_S)
        samples, info = audio.read_stretch(source, self.start_s, last_s, name, process)
        if self.end_s is not None and self.end_s > info.seconds + 0.5 / info.rate_hz:
            found, remedy = f"{info.seconds:.2f} s of audio", "Name seconds inside the recording."
            raise AudioError(name, found, f"noise up to {self.end_s:g} s, as --noise-profile says", remedy)
        try:
            return enhancer.with_noise(samples, info.rate_hz)
        except AudioError as error:
            raise AudioError(name, f"a noise profile of {error.found}", error.expected, error.remedy) from error


@dataclass(frozen=True)
class Treatment:
    """What is done to a recording, in this order: repair, removal of the noise, a gain. The defaults remove the noise
    alone.

    Examples:
        >>> from deepnmf_cli import Treatment
        >>> from deepnmf_cli.repair.examine import RepairOptions
        >>> careful = Treatment(max_attenuation_db=20, repair=RepairOptions(fixes=("gaps", "clicks")))
        >>> careful.mix
        1.0
    """

    max_attenuation_db: float | None = None
    mix: float = 1.0
    separate: bool | None = False
    """Whether each channel has a mask of its own; None: where the channels have no sound in common. These three are
    those of `Enhancer.stream`."""
    noise_profile: NoiseProfile | None = None
    repair: "RepairOptions | None" = None
    loudness_lufs: float | None = None
    """Integrated loudness by EBU R 128 that the gain brings the output to."""


@dataclass(frozen=True)
class Enhanced:
    """What became of a recording."""

    rewritten: Rewritten
    separate: bool
    """Whether each channel had a mask of its own."""
    elapsed_s: float
    loudness: "Loudness | None" = None
    """That of the output, if it was asked for."""
    speech: list[Stretch] | None = None
    """Where there is speech, if that was asked for."""


def enhance_file(
    enhancer: Enhancer,
    source: str | Path,
    target: str | Path,
    treatment: Treatment = Treatment(),
    *,
    removed: str | Path | None = None,
    speech: str | Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    in_place: bool = False,
    progress: Progress = lambda seconds: None,
) -> Enhanced:
    """Enhance a file into another, which is written atomically and keeps rate, channels, length and bit depth.

    Args:
        enhancer: What `load_enhancer` returns.
        source: An audio file of any length and of any format that `deepnmf enhance` reads.
        target: The file to write; its suffix selects the container.
        treatment: What is done to the recording.
        removed: A file for what was removed; None writes none. target + removed = source, if there is no repair.
        speech: A text file for labels of the stretches with speech: start, end and probability; None writes none.
        name: What stands for the source in messages; None: its path.
        overwrite: Replace existing files. Otherwise they are an error.
        in_place: Replace `target` although it exists, since it is `source`.
        progress: Called with the seconds of audio done since the last call.

    Returns:
        What became of the recording.

    Raises:
        AudioError: If a file cannot be read or written, or a noise profile is missing, too short or silent.
        ModelError: If a model of repair cannot be read.
        MissingExtraError: If loudness is asked for without the extra [media].
        UsageError: If the model cannot do what is asked, or another value is out of range.

    Examples:
        >>> import soundfile, tempfile
        >>> from deepnmf_cli import enhance_file, load_enhancer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/noisy.wav", [0.0] * 8000, 16000)
        ...     done = enhance_file(load_enhancer("tiny", "cpu"), f"{folder}/noisy.wav", f"{folder}/clean.wav")
        ...     done.rewritten.info.seconds
        0.5
    """
    begin, name = time.perf_counter(), str(source) if name is None else name
    way = _Way(enhancer, treatment, source, name, speech is not None, progress)
    process, told = way.through, progress
    leveller = None
    if treatment.loudness_lufs is not None:
        from deepnmf_cli.signal.loudness import Leveller, check

        check(treatment.loudness_lufs, removed)
        leveller = Leveller(treatment.loudness_lufs, target)
        process, told = leveller.after(process, progress), lambda seconds: None
    stretches: list[Stretch] = []

    def label(info: AudioInfo) -> None:
        if way.activity is not None and speech is not None:
            stretches.extend(way.activity.stretches(info.seconds))
            _write_labels(Path(speech), stretches, overwrite)

    done = rewrite(
        source, target, process, removed,
        name=name, overwrite=overwrite, in_place=in_place, exact=treatment.repair is not None,
        progress=told, before_end=label,
    )  # fmt: skip
    done = replace(done, notes=(*done.notes, *way.notes))
    loudness = leveller.loudness if leveller else None
    return Enhanced(done, way.separate, time.perf_counter() - begin, loudness, stretches if speech else None)


class _Way:
    """The way of one recording through repair and enhancement, and what is known of it at the end."""

    def __init__(
        self, enhancer: Enhancer, treatment: Treatment, source: str | Path, name: str, listen: bool, progress: Progress
    ) -> None:
        self._treatment, self._source, self._name = treatment, source, name
        self.separate = bool(treatment.separate)
        self.activity = SpeechActivity() if listen else None
        self.notes: tuple[str, ...] = ()
        """What repair could not do, each the end of a sentence about the recording."""
        repair = treatment.repair
        if repair is not None:
            from deepnmf_cli.repair.examine import examine

            self._findings = examine(source, repair, name, progress)
        profile = treatment.noise_profile
        if profile is not None and profile.file is not None:
            enhancer = profile.of_file(enhancer)
        elif profile is not None:
            enhancer = profile.taught(enhancer, source, name, self.repaired if repair is not None else None)
        self._enhancer = enhancer

    def through(self, blocks: Iterable[np.ndarray], rate_hz: int, channels: int) -> Iterator[np.ndarray]:
        """Yield the enhanced blocks of the recording."""
        treatment = self._treatment
        if treatment.separate is None and channels > 1:
            self.separate = coherence.are_separate(self._source, self._name)
        if treatment.repair is not None:
            blocks = (block.astype(np.float32) for block in self.repaired(blocks, rate_hz, channels))
        limits = treatment.max_attenuation_db, treatment.mix
        given = {"separate": self.separate, "activity": self.activity}
        yield from self._enhancer.enhance_blocks(blocks, rate_hz, channels, *limits, **given)

    def repaired(self, blocks: Iterable[np.ndarray], rate_hz: int, channels: int) -> Iterator[np.ndarray]:
        """Yield the repaired blocks of the recording."""
        from deepnmf_cli.repair.examine import repairer
        from deepnmf_cli.repair.repairer import repaired

        if not self._findings:
            yield from blocks
            return
        assert self._treatment.repair is not None
        used = repairer(self._findings, self._treatment.repair, rate_hz, channels, self._name)
        yield from repaired(blocks, used)
        self.notes = used.counts.notes


def _write_labels(path: Path, stretches: list[Stretch], overwrite: bool) -> None:
    """Write start, end and probability of each stretch, a line of three columns, which Audacity reads as labels."""
    with audio.explaining(path), checkpoint.atomic_path(path, overwrite) as partial:
        partial.write_text("".join(f"{s.start_s:.3f}\t{s.end_s:.3f}\t{s.probability:.2f}\n" for s in stretches))
