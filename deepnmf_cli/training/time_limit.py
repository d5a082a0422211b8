"""A run that is over by the clock."""

import time


class TimeLimit:
    """The moment at which a run is to be over, its last dev score included."""

    MARGIN = 1.3
    """A score is given so many times the time of the last one."""
    SHARE = 0.1
    """Of the time, kept for a score as long as none has been measured."""

    def __init__(self, seconds: float, began: float | None = None) -> None:
        """`began` is a time of `time.monotonic`; None is now."""
        self.seconds, self._end = seconds, (time.monotonic() if began is None else began) + seconds

    def reached(self, scoring_s: float | None) -> bool:
        """Return whether it is time for the last dev score, when the last one has taken `scoring_s`."""
        kept = self.SHARE * self.seconds if scoring_s is None else self.MARGIN * scoring_s
        return time.monotonic() + kept >= self._end
