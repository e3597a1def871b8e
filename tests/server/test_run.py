"""`llmgen serve` as a process: what it refuses, how it starts, reloads and stops."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from schemathesis.core.errors import SchemathesisError  # noqa: F401

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import histories
from llmgen.errors import APIStatusError, ConfigError
from llmgen.http.client import Client
from llmgen.priors import Transition
from llmgen.recommend.recommender import Recommender
from llmgen.server import ServeSettings
from llmgen.server.auth import check_exposure, read_keys
from llmgen.types import Item, Query
from tests.test_frozen import made_log

KEY = "a-key-of-the-tests"


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of `llmgen serve` on a free port, and its URL."""
    command = [sys.executable, "-m", "llmgen", "--verbose", "serve", "--engine", "fake", "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stderr is not None
    said = ""
    try:
        while not (found := re.search(r"on (http://\S+)", said)):
            line = process.stderr.readline()
            assert line, f"it ended: {said}"
            said += line
        yield process, found[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def items(tmp_path: Path, small: Catalog) -> Path:
    small.save(tmp_path / "items.jsonl")
    return tmp_path / "items.jsonl"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_before_it_ends_it_says_that_it_is_not_ready_and_answers_all_the_same(items: Path, workers: str) -> None:
    with serving("--catalog", str(items), "--drain", "3", "--workers", workers) as (process, url):
        assert httpx2.get(f"{url}/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 3
        while (answer := httpx2.get(f"{url}/ready")).status_code == 200:  # each on a connection of its own
            assert time.monotonic() < end
        assert (answer.status_code, answer.json()["status"]) == (503, "shutting down")
        asked = httpx2.post(f"{url}/v1/recommend", json={"text": "dark night"})
        assert asked.status_code == 200
        assert process.wait(30) == 0


def test_a_catalog_is_served_reloaded_and_saved(items: Path, small: Catalog) -> None:
    with serving("--catalog", str(items), "--save-changes") as (process, url), Client(url) as client:
        assert client.status().items == 60
        wished = client.recommend(Query(text="dark night", k=3))
        assert wished.prompt.startswith("cold_start@")
        assert set(wished[0].terms) == {"lm", "wish"}
        client.put_items([Item("put", "Put While Serving")])
        assert "put" in Catalog.from_jsonl(items)
        small.with_items([Item("read", "Read Again")]).save(items)
        before = client.status().catalog
        process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while client.status().catalog == before:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert client.item("read").title == "Read Again"
        items.write_text("{")  # what cannot be read leaves the old one
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert client.status().items == 61
        assert client.recommend(Query(k=1))


def test_attributes_called_id_and_title_are_read_again_after_a_restart(items: Path) -> None:
    """In the file, attributes stand beside the id and the title of their item."""
    put = Item("put", "Put While Serving", {"id": "x-7", "title": "Another Title", "year": 1979, "genres": ("War",)})
    alone = Item("alone", "Alone", {"attributes": "many"})
    saving = ["--catalog", str(items), "--save-changes"]
    with serving(*saving) as (_, url), Client(url) as client:
        client.put_items([put, alone])
        assert (client.item("put"), client.item("alone")) == (put, alone)
        digest = client.status().catalog
    for _ in range(2):  # the second time it is read from what a service has read and written
        with serving(*saving) as (_, url), Client(url) as client:
            assert (client.item("put"), client.item("alone")) == (put, alone)
            assert client.status().catalog == digest
            assert client.rank(Query(), ["put"])[0].item == put
            assert client.recommend(Query(filters={"title": "another title"}, k=1))[0].item == put
            client.put_items([Item("more", "More")])
            client.delete_item("more")


def test_only_one_process_saves_its_changes_in_a_file(items: Path) -> None:
    """Each has all items in memory: the second would write over what the first has put."""
    saving = ["--catalog", str(items), "--save-changes"]
    with serving(*saving) as (process, url), Client(url) as client:
        command = [sys.executable, "-m", "llmgen", "serve", "--engine", "fake", "--port", "0", *saving]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        said = " ".join(second.stderr.split())
        assert second.returncode == 1
        assert f"process {process.pid} on {socket.gethostname()} saves its changes in" in said
        with serving("--catalog", str(items)):  # to read it is free
            client.put_items([Item("put", "Put While Another Serves")])
        process.kill()
        process.wait(20)
    with serving(*saving) as (_, url), Client(url) as client:  # a lock does not outlive who was killed
        assert client.item("put").title == "Put While Another Serves"


def test_as_process_1_it_ends_when_it_is_stopped_while_it_loads(tmp_path: Path) -> None:
    pipe, temporary = tmp_path / "items.jsonl", tmp_path / "temporary"
    os.mkfifo(pipe)
    temporary.mkdir()
    first = "import os, sys; os.getpid = lambda: 1; from llmgen.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", first, "serve", "--engine", "fake", "--port", "0", "--catalog", str(pipe)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)}) as process, pipe.open("w"):
        process.terminate()  # the pipe opens once the other end is read
        assert process.wait(30) == 128 + signal.SIGTERM  # by a handler, without which process 1 would go on
    assert list(temporary.iterdir()) == []


def test_stopping_answers_what_is_under_way(items: Path) -> None:
    with serving("--catalog", str(items), "--gather", "700") as (process, url):
        answers: list[int] = []
        with Client(url) as client:
            asked = threading.Thread(target=lambda: answers.append(len(client.recommend(Query(k=3)))))
            asked.start()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            asked.join(20)
        assert answers == [3]
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "no API key is set"),
        (["--host", "::"], "no API key is set"),
        (["--save-changes"], "--catalog"),
        (["--refit", "10"], "give --store"),
        (["--catalog", "ITEMS", "--prior", "transition=1"], "--prior transition is fitted on a log"),
        (["--catalog", "ITEMS", "--dataset", "other"], "stands for a data set"),
        (["--catalog", "nothing/there.jsonl"], "nothing/there.jsonl"),
        (["--catalog", "ITEMS", "--api-keys", "nothing/there"], "cannot read API keys"),
        (["--catalog", "ITEMS", "--engine", "gpt"], "no engine of the kind"),
        (["--catalog", "ITEMS", "--port", "TAKEN"], "Address already in use"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    items: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmgen.cli import main as cli

    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"ITEMS": str(items), "TAKEN": str(taken.getsockname()[1])}
        arguments = ["serve", "--engine", "fake", *[names.get(option, option) for option in options]]
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert says in error
    assert error.count("error: ") == 1


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{'a' * 16}  # Ann's\n\n{'b' * 20}\n")
    assert read_keys(f" {'c' * 16},{'a' * 16},", file) == ("c" * 16, "a" * 16, "b" * 20)
    assert read_keys("", None) == ()
    file.write_bytes(b"\xef\xbb\xbf" + b"d" * 16 + b"\r\n")  # as Windows editors write it
    assert read_keys("", file) == ("d" * 16,)
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no API key"):
        read_keys("", file)
    with pytest.raises(ConfigError, match="of 5 characters can be guessed") as short:
        read_keys("short", None)
    assert "short" not in str(short.value)


def test_other_machines_are_let_in_with_keys_or_on_purpose() -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(host, (), insecure=False)
    check_exposure("0.0.0.0", (KEY,), insecure=False)
    check_exposure("0.0.0.0", (), insecure=True)
    with pytest.raises(ConfigError, match="LLMGEN_API_KEYS"):
        check_exposure("192.0.2.1", (), insecure=False)


def test_keys_of_the_environment_are_wanted(items: Path) -> None:
    with serving("--catalog", str(items), LLMGEN_API_KEYS=KEY) as (_, url):
        with Client(url, api_key=KEY) as client:
            assert client.recommend(Query(k=1))
        with Client(url) as client, pytest.raises(APIStatusError, match="401"):
            client.recommend(Query(k=1))


def test_help_names_what_matters() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "llmgen", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    limits = ("--timeout", "--header-timeout", "--read-timeout", "--max-body", "--max-headers", "--max-queue")
    for option in ("--catalog", "--engine", "--api-keys", "--insecure", *limits):
        assert option in shown


def test_what_was_fitted_is_served_without_its_log(tmp_path: Path, small: Catalog) -> None:
    log = made_log(small, users=8)
    priors = [Transition.fit(log, small)]
    made = Recommender(small, None, priors=priors, histories=histories(log, catalog=small))
    made.save(tmp_path / "made")
    with serving("--load", str(tmp_path / "made"), "--engine", "none") as (process, url), Client(url) as client:
        wanted = made.recommend(Query(k=4), user="u3")
        assert client.recommend(user="u3", k=4).places == wanted.places
        made.with_catalog(small.without(["7"])).save(tmp_path / "made")
        process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 20
        while client.status().items == 60:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert client.status().items == 59


def test_each_limit_has_an_option_that_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgen import server
    from llmgen.cli import main as cli

    given: list[ServeSettings] = []
    monkeypatch.setattr(server, "run", lambda data, settings, where, extend: given.append(where))
    options = {
        "timeout_s": ("--timeout", 11.0),
        "max_batch": ("--max-batch", 12),
        "gather_s": ("--gather", 0.013),
        "max_queue": ("--max-queue", 14),
        "max_body": ("--max-body", 15_000),
        "headers_s": ("--header-timeout", 16.0),
        "max_headers": ("--max-headers", 17_000),
        "max_batches": ("--max-batches", 18),
        "read_s": ("--read-timeout", 19.0),
        "rate": ("--rate", 20.0),
    }
    written = [word for name, (option, value) in options.items() for word in (option, _written(name, value))]
    with pytest.raises(SystemExit):
        cli.main(["serve", *written])
    assert dataclasses.asdict(given[0].limits) == {name: value for name, (_, value) in options.items()}


def _written(name: str, value: float) -> str:
    return f"{1000 * value:g}" if name == "gather_s" else f"{value:g}"  # milliseconds
