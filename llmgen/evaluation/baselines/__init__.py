"""Baselines: the priors and classic recommenders beside which every arm stands, tuned on validation."""
