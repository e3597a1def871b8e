"""The search for a better prompt: what it tries, its rounds, and the confirmation on other users."""
