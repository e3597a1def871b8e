"""Pseudonyms: a store that holds keyed hashes of users' ids, so that who reads it cannot tell who they are."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from llmgen.errors import ConfigError

SHORTEST_KEY = 16
"""Bytes; a shorter key can be found by trying."""


class Pseudonyms:
    """Ids of users -> the first 32 hex digits of their HMAC-SHA256.

    Args:
        key: Secret. Without it nobody can tell which user a pseudonym is; with it anybody can who knows the ids. Who
            loses it can no longer find a user's events.

    Raises:
        ConfigError: The key is too short.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY:
            raise ConfigError(
                f"a key of pseudonyms has {SHORTEST_KEY} bytes or more, not {len(key)}; make one with "
                "`openssl rand -hex 32`"
            )
        self._key = key

    @classmethod
    def read(cls, path: Path) -> Pseudonyms:
        """With the key that a file holds; white space around it does not count.

        Raises:
            ConfigError: The file cannot be read, or the key is too short.
        """
        try:
            return cls(path.read_bytes().strip())
        except OSError as error:
            raise ConfigError(f"cannot read the key of pseudonyms {path}: {error.strerror}") from error

    def of(self, user: str) -> str:
        """The pseudonym of a user."""
        return hmac.new(self._key, user.encode(), hashlib.sha256).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        """By which a store knows the key again; tells nothing about it."""
        return hmac.new(self._key, b"llmgen pseudonyms", hashlib.sha256).hexdigest()
