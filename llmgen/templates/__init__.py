"""Prompt templates: their files, their tasks, and how they are checked and rendered."""
