"""Text: how titles and queries are normalised, made safe for prompts, searched by words, and corrupted for tests."""
