"""A running OpenAI-compatible server."""
