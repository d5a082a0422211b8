"""Deep unfolding: the iterations of an algorithm as layers over a bank of parameters."""
