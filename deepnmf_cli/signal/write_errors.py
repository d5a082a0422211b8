"""Why an output cannot be written, as an error that a user can act on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import soundfile

from deepnmf_cli.errors import AudioError
from deepnmf_cli.signal.audio import reason

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn what a failing write raises into an AudioError that says why the output could not be written."""
    try:
        yield
    # A disk that fills up shows as a "System error" of libsndfile or as a failed assertion of soundfile.
    except (OSError, soundfile.SoundFileError, AssertionError) as error:
        if isinstance(error, FileExistsError):
            found, expected = "a file that appeared while the output was made", "a name that is free until the end"
            remedy = "It was left as it is: pass --overwrite to replace it, or choose another name."
            raise AudioError(path, found, expected, remedy) from error
        gone = not path.parent.is_dir()
        if gone or (isinstance(error, OSError) and error.errno not in _FULL):
            why = "its folder is gone" if gone else reason(error)
            found, remedy = f"an output that cannot be written ({why})", "Choose another folder."
        else:
            found, remedy = "a full disk, or an exceeded quota", "Free some space, or use another disk."
        raise AudioError(path, found, "room for the output in a folder that can be written", remedy) from error
