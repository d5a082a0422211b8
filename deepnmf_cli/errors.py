"""The types of errors, and the exit code with which each one ends the program."""

from collections.abc import Iterable
from pathlib import Path

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NO_GAIN = 4
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


LONGEST_PART = 2000
"""Most characters in each part of an error: less than a screenful."""


def _cut(part: str) -> str:
    return part if len(part) <= LONGEST_PART else f"{part[:LONGEST_PART]} ..."


def shortened(message: object, longest: int = 300) -> str:
    """Return a message of a library or a file, shortened to fit into a sentence."""
    text = " ".join(str(message).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def count(number: int, noun: str) -> str:
    """Return a count in words: 1 file, 2 files."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def are(number: int, noun: str) -> str:
    """Return a count in words with its verb: 1 file is, 2 files are."""
    return f"{count(number, noun)} {'is' if number == 1 else 'are'}"


def nearest(word: str, known: Iterable[str], otherwise: str = "Remove it.") -> str:
    """Return a remedy for an unknown word: the known one that it resembles, or else `otherwise`."""
    import difflib

    near = difflib.get_close_matches(str(word)[:60], list(known), n=1, cutoff=0.4)
    return f"Did you mean {near[0]!r}?" if near else otherwise


class Terminated(KeyboardInterrupt):
    """Another program asked this one to end (SIGTERM); whatever handles Ctrl-C handles this in the same way."""


class DeepnmfError(Exception):
    """An error a user can act on: where, what was found, what was expected, and the remedy.

    `str(error)` is the sentence shown to the user, for example
    "speech.wav: found no samples; expected at least one sample. Record it again, or leave the file out."
    """

    exit_code = EXIT_FAILED

    def __init__(self, where: str | Path, found: str, expected: str, remedy: str) -> None:
        """Each part is cut after LONGEST_PART characters, as it may quote a file."""
        self.where, self.found, self.expected, self.remedy = (_cut(str(x)) for x in (where, found, expected, remedy))
        super().__init__(f"{self.where}: found {self.found}; expected {self.expected}. {self.remedy}")

    def __reduce__(self):
        # Errors travel between worker processes, so they must be rebuilt from all four parts.
        return type(self), (self.where, self.found, self.expected, self.remedy)


class AudioError(DeepnmfError):
    """An audio file that cannot be read or written."""


class ModelError(DeepnmfError):
    """A model file that is damaged, of another kind, or unknown."""


class NativeError(DeepnmfError):
    """A missing compiler, or a library of machine code that cannot be built or used."""


class CorpusError(DeepnmfError):
    """A folder or manifest that holds too little, or whose files cannot be paired."""


class RecipeError(DeepnmfError):
    """A setting that does not exist or has an impossible value."""

    exit_code = EXIT_USAGE


class TrainingError(DeepnmfError):
    """A complete run whose best model is worse than what the run began with."""

    exit_code = EXIT_NO_GAIN


class ClusterError(DeepnmfError):
    """A cluster of machines that cannot be reached, or whose workers are unfit."""


class UsageError(DeepnmfError):
    """A command line that asks for something impossible, such as an output that equals its input."""

    exit_code = EXIT_USAGE


_NO_MEMORY = (
    "cannot allocate memory", "can't allocate memory", "failed to allocate memory", "failed to map segment",
    "bad allocation", "bad_alloc", "not enough memory", "out of memory", "can't start new thread",
)  # fmt: skip
"""Messages of libraries that report a lack of memory by error types of their own."""


def lack_of_memory(error: BaseException) -> DeepnmfError | None:
    """Return the error to show if `error`, or one that caused it, says that memory ran out; None if neither does."""
    link: BaseException | None = error
    while link is not None:
        text = str(link).strip()
        said = any(sign in text.lower() for sign in _NO_MEMORY) and not isinstance(link, DeepnmfError)
        if said or isinstance(link, MemoryError):
            found = f"that memory ran out ({text.splitlines()[0].rstrip('.')})" if text else "that memory ran out"
            remedy = "End other programs, or raise the limit that `ulimit -v` shows."
            return DeepnmfError("system", found, "more of it", remedy)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return None


def require_depth(depth: int, depths: range) -> None:
    """Raise UsageError unless a network can be stopped after `depth` layers; `depths` begins with 1."""
    if depth not in depths:
        expected = f"1 to {depths[-1]}, the layers of this model"
        raise UsageError("--depth", f"{depth}", expected, "Choose such a number, or leave it out for all of them.")
