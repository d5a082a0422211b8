"""Options of a repair, and the examination of a file for the damage that they name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepnmf_cli.errors import AudioError
from deepnmf_cli.repair import CLICKS, CLIPPING, FIXES, GAPS, model
from deepnmf_cli.repair.detect import Scanner
from deepnmf_cli.repair.model import RepairModel
from deepnmf_cli.repair.repairer import Repairer
from deepnmf_cli.repair.spans import CLICK, GIVEN, Clipping, Findings, read_gaps
from deepnmf_cli.signal.audio import AudioReader
from deepnmf_cli.signal.samples import check_samples


@dataclass(frozen=True)
class RepairOptions:
    """What is to be repaired; None stands for what is found."""

    fixes: tuple[str, ...] = FIXES
    gaps: str | None = None
    """File in which gaps are marked."""
    clip_level_db: float | None = None
    """Level of clipping in dB of full scale."""
    models: tuple[tuple[str, str], ...] = ()
    """(task, file) of models that replace those that ship."""

    def load(self, tasks: Iterable[str]) -> dict[str, RepairModel]:
        """Load the models for some of `model.TASKS`, by task."""
        files = dict(self.models)
        return {task: model.load(Path(files.get(task) or model.shipped(task))) for task in tasks}


def examine(
    source: str | Path,
    options: RepairOptions,
    name: str,
    progress: Callable[[float], object] = lambda seconds: None,
) -> Findings:
    """Read a file once and return what is to be repaired.

    `name` stands for the file in messages. `progress` is called for every block, with 0 seconds, as the work that
    counts comes later. Raises AudioError for a file that cannot be read; for samples that are not finite or too large,
    unless gaps are repaired and they lie in one; for a clip level above the peak; and for a file, or a channel, that is
    one gap.
    """
    with AudioReader(source, name) as reader:
        info = reader.info
        marked = [] if options.gaps is None else read_gaps(options.gaps, info.rate_hz, info.frames, name)
        scanner, at = Scanner(info.rate_hz, info.channels), 0
        for block in reader.blocks("float64", check=False):
            refuse(name, block, info.rate_hz, at, [(s.first, s.end) for s in marked], options)
            scanner.feed(block)
            at += block.shape[1]
            progress(0.0)
        found = scanner.finish()
    spans = [s for s in found.spans if wanted(s.kind, options)]
    clipping = found.clipping if CLIPPING in options.fixes else []
    if CLIPPING in options.fixes and options.clip_level_db is not None:
        level = 10 ** (options.clip_level_db / 20)
        if level > scanner.peak:
            peak_db = 20 * np.log10(max(scanner.peak, 1e-10))
            remedy = "Lower --clip-level, or let it be found: --clip-level auto."
            expected = f"one above the --clip-level of {options.clip_level_db:g} dB"
            raise AudioError(name, f"a peak of {peak_db:.2f} dB", expected, remedy)
        clipping = [Clipping(channel, level, level, GIVEN) for channel in range(info.channels)]
    findings = Findings(sorted([*marked, *spans], key=lambda s: s.first), clipping)
    for channel in range(info.channels):
        lost = end = 0
        for span in findings.spans:
            if span.channel in (None, channel) and span.end > end:
                lost, end = lost + span.end - max(span.first, end), span.end
        if lost >= info.frames:
            remedy = "Mark less of it, or record it again."
            raise AudioError(name, f"a gap as long as channel {channel + 1}", "some samples that are whole", remedy)
    return findings


def repairer(findings: Findings, options: RepairOptions, rate_hz: int, channels: int, name: str) -> Repairer:
    """Return the `Repairer` of a recording with these findings."""
    tasks = [model.GAPS] * bool(findings.spans) + [model.CLIPPING] * bool(findings.clipping)
    return Repairer(findings, options.load(tasks), rate_hz, channels, name)


def wanted(kind: str, options: RepairOptions) -> bool:
    """Whether a span that was found is repaired; if gaps are marked, only clicks."""
    if kind == CLICK:
        return CLICKS in options.fixes
    return GAPS in options.fixes and options.gaps is None


def refuse(
    name: str, block: np.ndarray, rate_hz: int, at: int, marked: list[tuple[int, int]], options: RepairOptions
) -> None:
    """Raise AudioError for samples that cannot be used.

    Samples that are not finite count as gaps if gaps are to be filled and no file marks them; with a file, those
    outside its gaps are refused.
    """
    usable = np.where(np.isfinite(block), block, 0.0)
    if GAPS not in options.fixes:
        usable = block
    elif options.gaps is not None:
        usable = block.copy()
        for first, end in marked:
            usable[:, max(0, first - at) : max(0, end - at)] = 0.0
    check_samples(name, usable, rate_hz, at)
