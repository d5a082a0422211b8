"""Recordings, and mixtures made of them on the fly."""
