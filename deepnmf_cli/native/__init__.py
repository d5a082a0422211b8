"""Grids in machine code: C source for the whole path from waveform to waveform."""
