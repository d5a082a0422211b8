"""Training: objectives, dictionaries, the loop, and the journal of a run."""
