"""Classical inference as pure functions of tensors: start, step, readout, objective."""
