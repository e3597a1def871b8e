"""Workspace: what a command works with, made from its options or from a saved folder."""
