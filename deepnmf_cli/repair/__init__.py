"""Repair of what a mask cannot repair: gaps, clicks and clipping."""

GAPS, CLIPPING, CLICKS = "gaps", "clipping", "clicks"
FIXES = (GAPS, CLIPPING, CLICKS)
"""What can be repaired, by the names that `--fix` takes."""
