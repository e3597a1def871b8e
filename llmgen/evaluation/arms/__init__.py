"""Arms: the recommenders that a run compares, as settings and as what answers."""
