"""Inspection of a recording, and of what a model makes of it layer by layer, in numbers, pictures and sounds."""
