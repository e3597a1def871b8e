"""Tries: the token paths of a catalog's items, how they grow, and what the items below a node weigh."""
