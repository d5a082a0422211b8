"""Time limit of a run."""

import time


class TimeLimit:
    """The time by which a run is to end, its last dev score included."""

    MARGIN = 1.3
    """Time reserved for a dev score, as a multiple of the time that the last one took."""
    SHARE = 0.1
    """Share of the time limit that is reserved for a dev score as long as none has been timed."""

    def __init__(self, seconds: float, began: float | None = None) -> None:
        """`began` is a time of `time.monotonic`; None stands for now."""
        self.seconds, self._end = seconds, (time.monotonic() if began is None else began) + seconds

    def reached(self, scoring_s: float | None) -> bool:
        """Return whether it is time for the final dev score, if the previous one took `scoring_s`."""
        kept = self.SHARE * self.seconds if scoring_s is None else self.MARGIN * scoring_s
        return time.monotonic() + kept >= self._end
