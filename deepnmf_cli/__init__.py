"""Speech enhancement by deep unfolding: model-based inference, unfolded into networks and trained."""

__version__ = "0.1.0"
