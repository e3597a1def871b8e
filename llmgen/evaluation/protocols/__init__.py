"""Protocols: how a log becomes held-out users with what is right for each, and groups of these users."""
