"""Grids in machine code: the source in C of the whole path from waveform to waveform."""
