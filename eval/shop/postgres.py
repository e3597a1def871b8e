"""A PostgreSQL of one's own, to be killed and started as one likes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psutil
from sqlalchemy import create_engine, text

from llmgen.errors import ConfigError


class MissingError(ConfigError):
    """PostgreSQL is not installed."""


class Postgres:
    """A server in a folder, for user `postgres` on the address 127.0.0.1.

    Args:
        folder: Empty, and not below one that only root may enter where root runs this.

    Raises:
        MissingError: PostgreSQL is not installed.
        ConfigError: It does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.log = folder / "log"
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
        if found is None:
            raise MissingError("PostgreSQL is not installed; on Debian: apt install postgresql")
        self.bin = Path(found).resolve().parent
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.log), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: nothing that was not on the disk is there afterwards."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """`kill -9` of all its processes."""
        main = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        every = [main, *main.children(recursive=True)]
        for process in every:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue  # the first one's end is the others'
        psutil.wait_procs(every, timeout=30)

    def database(self) -> str:
        """The address of a new database."""
        name = f"shop_{uuid4().hex[:8]}"
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name).replace("+psycopg", "")

    def url(self, name: str) -> str:
        """The address of a database."""
        return f"postgresql+psycopg://postgres:secret@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.bin / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, timeout=60)
        if done.returncode:
            raise ConfigError(f"{program} ended with {done.returncode}: {done.stdout} {done.stderr}")
