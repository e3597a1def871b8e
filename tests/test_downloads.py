"""Downloads with the real pip, against a folder of hand-made wheels; no network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmgen import downloads
from llmgen.downloads import cache_dir, cached_member, extract, fetch_wheel
from llmgen.errors import DataError, DownloadError

NAME, VERSION, WHEEL = "tiny-data", "1.0", "tiny_data-1.0-py3-none-any.whl"
TEXT = b"what is inside\n" * 100


def make_wheel(folder: Path, text: bytes = TEXT) -> str:
    """Write a wheel that pip accepts; its SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("tiny_data/file.txt", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks in, in place of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def left_in_cache() -> list[str]:
    return [path.name for path in (cache_dir() / "wheels").rglob("*")]


def test_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b"
    assert cache_dir().is_dir()


def test_cache_is_the_users_own_without_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMGEN_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, appauthor: str(tmp_path / name))
    assert cache_dir() == tmp_path / "llmgen"


def test_cache_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="set LLMGEN_CACHE"):
        cache_dir()


def test_wheel_comes_into_the_cache_and_one_line_says_so_on_stderr(
    index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sha256 = make_wheel(index)
    wheel = fetch_wheel(NAME, VERSION, sha256)
    assert wheel == cache_dir() / "wheels" / WHEEL
    assert wheel.read_bytes() == (index / WHEEL).read_bytes()
    assert left_in_cache() == [WHEEL]
    said = capfd.readouterr()
    assert said.err == f"fetching {NAME} {VERSION}, once, into {cache_dir() / 'wheels'}\n"  # and no "Saved ..." of pip
    assert said.out == ""  # stdout belongs to the caller's results


def test_how_far_pip_is_is_told(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []

    class Told(downloads.Stage):
        def __exit__(self, *details: object) -> None:
            told.append((self.label, self.done, self.total))
            super().__exit__(*details)  # type: ignore[arg-type]

    monkeypatch.setattr(downloads, "Stage", Told)
    sha256 = make_wheel(index, os.urandom(3_500_000))
    (tmp_path / "page").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(index)))
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (index / "index.html").write_text(f'<a href="{WHEEL}">{WHEEL}</a>')
        monkeypatch.setenv("PIP_FIND_LINKS", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        fetch_wheel(NAME, VERSION, sha256)
        server.shutdown()
    assert told == [(f"fetching {NAME}, MB", 3, 3)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *details: object) -> None:
        pass


def test_without_progress_pip_is_not_heard(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fetch_wheel(NAME, VERSION, make_wheel(index), progress=False)
    assert capfd.readouterr() == ("", "")


def test_intact_wheel_is_not_fetched_again(index: Path) -> None:
    sha256 = make_wheel(index)
    first = fetch_wheel(NAME, VERSION, sha256, progress=False)
    (index / WHEEL).unlink()
    assert fetch_wheel("Tiny_Data", VERSION, sha256, progress=False) == first


def test_damaged_wheel_in_the_cache_is_fetched_again(index: Path) -> None:
    sha256 = make_wheel(index)
    wheel = fetch_wheel(NAME, VERSION, sha256, progress=False)
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")  # of the same size
    assert fetch_wheel(NAME, VERSION, sha256, progress=False).read_bytes() == (index / WHEEL).read_bytes()


def test_another_file_under_the_name_is_refused(index: Path) -> None:
    make_wheel(index)
    with pytest.raises(DownloadError, match=r"tiny-data 1\.0: the file offered has another SHA-256 \([0-9a-f]{64}\)"):
        fetch_wheel(NAME, VERSION, "0" * 64, progress=False)
    assert left_in_cache() == []


def test_truncated_wheel_is_refused(index: Path) -> None:
    sha256 = make_wheel(index)
    (index / WHEEL).write_bytes((index / WHEEL).read_bytes()[:200])
    with pytest.raises(DownloadError, match="damaged or not the same"):
        fetch_wheel(NAME, VERSION, sha256, progress=False)
    assert left_in_cache() == []


def test_wheel_that_pip_let_through_is_checked_again(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless_pip(requirements: Path, target: Path, label: str, *, progress: bool) -> tuple[int, str]:
        make_wheel(target, b"something else")
        return 0, ""

    monkeypatch.setattr(downloads, "_pip_download", careless_pip)
    with pytest.raises(DownloadError, match=f"not {'0' * 64}: damaged or another file"):
        fetch_wheel(NAME, VERSION, "0" * 64)
    assert left_in_cache() == []


def test_wheel_that_no_index_has_is_an_error_with_advice(index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DownloadError) as error:
        fetch_wheel(NAME, VERSION, "0" * 64)
    message = str(error.value)
    assert "No matching distribution found for tiny-data==1.0" in message or "could not find" in message.lower()
    assert "check the connection" in message
    assert str(cache_dir() / "wheels") in message  # where to put it by hand
    assert left_in_cache() == []
    assert capfd.readouterr().err.count("\n") == 1  # what pip said is in the message


def test_wheel_put_there_by_hand_is_used(index: Path) -> None:
    sha256 = make_wheel(cache_dir() / "wheels")
    assert fetch_wheel(NAME, VERSION, sha256, progress=False) == cache_dir() / "wheels" / WHEEL


def test_python_without_pip_is_told_how_to_get_it(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: iter(()))
    with pytest.raises(DownloadError, match="ensurepip"):
        fetch_wheel(NAME, VERSION, make_wheel(index))


def test_pip_is_found_after_something_has_imported_distutils(index: Path) -> None:
    # As torch and vLLM do. An environment with setuptools then warns about each look for the module `pip`.
    code = f"""import sys, types
sys.modules["distutils"] = types.ModuleType("distutils")
from llmgen.downloads import fetch_wheel
fetch_wheel({NAME!r}, {VERSION!r}, {make_wheel(index)!r}, progress=False)"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_malformed_hash_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="64 lower-case hex"):
        fetch_wheel(NAME, VERSION, "abc")


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_interrupt_stops_pip_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    os.mkfifo(index / WHEEL)  # nobody writes into it: pip waits for ever, as for a server that hangs
    code = f"from llmgen.downloads import fetch_wheel; fetch_wheel({NAME!r}, {VERSION!r}, {'0' * 64!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stderr is not None
        assert "fetching" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()  # ends when pip has ended too: it holds the same pipe
    assert process.returncode != 0
    assert "KeyboardInterrupt" in rest
    assert left_in_cache() == []


def test_two_at_once_both_get_the_whole_wheel(index: Path) -> None:
    sha256 = make_wheel(index, os.urandom(300_000))
    code = f"from llmgen.downloads import fetch_wheel; print(fetch_wheel({NAME!r}, {VERSION!r}, {sha256!r}))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    said = [process.communicate()[0].decode().strip() for process in both]
    assert said == [str(cache_dir() / "wheels" / WHEEL)] * 2
    assert hashlib.sha256(Path(said[0]).read_bytes()).hexdigest() == sha256
    assert left_in_cache() == [WHEEL]


def test_member_is_copied_and_replaces_an_older_file(tmp_path: Path) -> None:
    make_wheel(tmp_path)
    target = tmp_path / "deep" / "file.txt"
    for _ in range(2):
        assert extract(tmp_path / WHEEL, "tiny_data/file.txt", target) == target
        assert target.read_bytes() == TEXT
        target.write_bytes(b"older")
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_missing_member_is_an_error_and_leaves_the_older_file(tmp_path: Path) -> None:
    make_wheel(tmp_path)
    target = tmp_path / "out" / "file.txt"
    extract(tmp_path / WHEEL, "tiny_data/file.txt", target)
    with pytest.raises(DataError, match=r"holds no 'tiny_data/other\.txt'"):
        extract(tmp_path / WHEEL, "tiny_data/other.txt", target)
    assert target.read_bytes() == TEXT
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("content", [b"", TEXT[:-1], b"W" + TEXT[1:]])
def test_a_damaged_member_is_fetched_again_with_one_warning(
    index: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    wheel = (NAME, VERSION, make_wheel(index))
    target, sha256 = cache_dir() / "data" / "file.txt", hashlib.sha256(TEXT).hexdigest()

    def cached() -> bytes:
        return cached_member(wheel, "tiny_data/file.txt", target, sha256, progress=False).read_bytes()

    assert cached() == TEXT
    assert not caplog.records
    target.write_bytes(content)
    assert cached() == TEXT
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and str(target) in warned[0] and "fetched again" in warned[0]
    (cache_dir() / "wheels" / WHEEL).unlink()
    (index / WHEEL).unlink()
    assert cached() == TEXT  # what is intact needs no wheel
    target.unlink()
    target.mkdir()
    with pytest.raises(DownloadError, match=r"cannot read .*file\.txt .*delete it"):
        cached()


def test_damaged_archive_is_an_error(tmp_path: Path) -> None:
    make_wheel(tmp_path)
    content = bytearray((tmp_path / WHEEL).read_bytes())
    content[content.index(b"what is")] ^= 1
    (tmp_path / WHEEL).write_bytes(content)
    with pytest.raises(DownloadError, match="is damaged"):
        extract(tmp_path / WHEEL, "tiny_data/file.txt", tmp_path / "file.txt")
    assert not (tmp_path / "file.txt").exists()
