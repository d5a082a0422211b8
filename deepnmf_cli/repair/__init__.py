"""Repair of what a mask cannot repair: gaps, clicks and clipping."""
