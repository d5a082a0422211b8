"""One recording in a file, of which there can be several, and what is known about its completeness."""

from dataclasses import dataclass

from deepnmf_cli.signal.view import Segment

INCOMPLETE = "The file is incomplete: copy it again, or save what is there with `ffmpeg -i FILE repaired.wav`."


@dataclass
class Part:
    """Stretches of the file that make one recording, with the headers that it begins with."""

    segments: list[Segment]
    fault: tuple[str, str, str] | None = None
    """What makes it unusable: what was found, what was expected, and the remedy."""
    cut: tuple[int, int] | None = None
    """Bytes, or packets, of samples that are there, and that the header promises, where these are more."""
    note: str = ""
    """What the user should know of it: an end of a sentence that begins with the name of the file."""
    frames: int | None = None
    """How many there are, where the decoder only estimates it."""
    skipped: int = 0
    """Frames at the beginning that are no part of the recording."""
    walked: bool = False
    """Whether its frames or pages were followed to the end: only then the length of MPEG audio and Ogg is known."""
