"""The report of a run: a page with its charts, and a table in the terminal."""
