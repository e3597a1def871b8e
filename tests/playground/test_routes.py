"""The routes: keys, policies, saving, and A/B tests beside the requests."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from llmgen.cli.main import app as command_line
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.results import Results
from llmgen.playground.page import page
from llmgen.server import create_app
from tests.playground.conftest import Shop, png
from tests.server.conftest import running
from tests.server.test_run import serving

KEY = "a-key-of-the-tests"
ARM = {"template": "next_item"}


def wording(played: Any) -> str:
    text: str = played._bench.recommender.prompts["next_item"].path.read_text(encoding="utf-8")
    return text.replace("Predict what", "Guess what")


def ended(client: httpx.Client) -> dict[str, Any]:
    until = time.monotonic() + 30
    while (told := client.get("trial").json())["state"] == "running":
        assert time.monotonic() < until
        time.sleep(0.05)
    return dict(told)


def test_the_page_is_small_and_loads_nothing_else() -> None:
    html = page().html
    assert len(html.encode()) < 400_000
    assert set(re.findall(r"https?://[^\s'\"]+", html)) == {"http://www.w3.org/2000/svg"}  # a name, nothing to fetch
    policy = page().headers["Content-Security-Policy"]
    for tag, source in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "innerHTML" not in html and "eval(" not in html


def test_a_service_without_the_page_has_none(shop: Shop) -> None:
    with running(create_app(shop.recommender())) as url:
        assert httpx.get(f"{url}/playground").status_code == 404
        assert httpx.get(f"{url}/playground/api/about").status_code == 404


def test_the_command_line_serves_the_page_for_a_catalog_without_a_log(shop: Shop, tmp_path: Path) -> None:
    shop.workspace.catalog.save(tmp_path / "items.jsonl")
    options = ["--catalog", str(tmp_path / "items.jsonl"), "--playground", "--runs", str(tmp_path), "--also", "none"]
    with serving(*options) as (_, url):
        assert httpx.get(f"{url}/playground").text.startswith("<!doctype html>")
        with httpx.Client(base_url=f"{url}/playground/api/", timeout=30) as client:
            about = client.get("about").json()
            assert (about["users"], about["judged"], about["items"]) == (0, 0, 30)
            assert list(about["priors"]) == ["wish"] and about["picture"] is None
            assert [(one["name"], one["engine"]) for one in about["models"]] == [("fake", "fake"), ("none", None)]
            refused = client.post("picture", json={"id": "1"})
            assert (refused.status_code, refused.json()["message"]) == (404, "the catalog has no pictures")
            body = client.post("ask", json={"arm": {"template": "cold_start"}, "wish": "alien queen"}).json()
            assert body["list"]["recommendations"][0]["item"]["title"] == "The Alien Queen"
            assert client.post("following", json={}).json() == {"users": []}
            pair = {"name": "mine", "a": ARM, "b": ARM}
            assert "there is no log" in client.post("save", json=pair).json()["message"]


def test_models_for_a_page_that_is_not_there_are_refused(shop: Shop) -> None:
    said = CliRunner().invoke(command_line, ["serve", "--also", "none"])
    assert isinstance(said.exception, ConfigError) and "give --playground too" in str(said.exception)
    said = CliRunner().invoke(command_line, ["serve", "--playground", "--also", "--prompt next_item"])
    assert isinstance(said.exception, ConfigError) and "not --prompt" in str(said.exception)


def test_pictures_are_served_with_their_type_and_none_from_elsewhere(serve: Any, pictured: Shop) -> None:
    with serve(shop=pictured, pictures=pictured.data.items.parent) as served:
        shown, outside, none = (
            httpx.post(f"{served.url}/playground/api/picture", json={"id": item}) for item in ("1", "2", "3")
        )
    assert (shown.status_code, shown.headers["content-type"], shown.content) == (200, "image/png", png(3, 2))
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert (outside.status_code, none.status_code) == (403, 404)
    assert "outside" in outside.json()["message"] and str(pictured.data.items.parent) not in outside.text


def test_all_but_the_page_itself_wants_the_key(serve: Any) -> None:
    with serve(KEY) as served:
        assert httpx.get(f"{served.url}/playground").status_code == 200
        for path in ("about", "trial", "trial/report"):
            assert httpx.get(f"{served.url}/playground/api/{path}").status_code == 401
        for path in ("ask", "check", "users", "items", "picture", "following", "save", "trial", "trial/stop"):
            assert httpx.post(f"{served.url}/playground/api/{path}", json={}).status_code == 401
        found = httpx.get(f"{served.url}/playground/api/about", headers={"Authorization": f"Bearer {KEY}"})
        assert found.json()["items"] == 30


def test_other_pages_of_the_browser_are_refused(serve: Any) -> None:
    with serve() as served:
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            headers = {"Sec-Fetch-Site": site}
            answer = httpx.post(f"{served.url}/playground/api/users", json={"text": ""}, headers=headers)
            assert answer.status_code == status
        plain = {"Content-Type": "text/plain"}  # what a form of another page can send
        assert httpx.post(f"{served.url}/playground/api/users", content=b"{}", headers=plain).status_code == 422


def test_words_are_not_logged_and_nothing_is_written(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        serve() as served,
        httpx.Client(base_url=f"{served.url}/playground/api/") as client,
    ):
        asked = {"arm": {**ARM, "text": wording(served.playground)}, "user": "u3", "wish": "zeppelin romance"}
        assert client.post("ask", json=asked).status_code == 200
        assert client.post("items", json={"text": "zeppelin"}).json() == {"items": []}
        bad = client.post("check", json={"name": "next_item", "text": "zeppelin {{"}).json()
        assert bad["problems"]
        wrong = client.post("ask", json={**asked, "arm": {**ARM, "text": "zeppelin {{"}})
        assert wrong.status_code == 422 and wrong.json()["error"] == "TemplateError"
        assert client.post("ask", json={**asked, "arm": {"template": "../../etc/passwd"}}).status_code == 422
    assert "zeppelin" not in caplog.text and "Guess what" not in caplog.text
    assert not served.runs.exists()


def test_a_changed_catalog_is_followed(serve: Any) -> None:
    with serve() as served, httpx.Client(base_url=served.url) as client:
        put = {"items": [{"id": "new", "title": "Zeppelin", "attributes": {"year": 1999}}]}
        assert client.put("/v1/items", json=put).status_code == 200
        found = client.post("/playground/api/items", json={"text": "zepp"}).json()["items"]
        assert found == [{"id": "new", "label": "Zeppelin"}]
        body = client.post("/playground/api/ask", json={"arm": ARM, "user": "u3", "k": 30}).json()
        assert "new" in {row["item"]["id"] for row in body["list"]["recommendations"]}


def test_what_is_saved_is_what_the_command_line_runs(serve: Any, tmp_path: Path) -> None:
    with serve() as served, httpx.Client(base_url=f"{served.url}/playground/api/", timeout=30) as client:
        arm = {
            "template": "next_item",
            "text": wording(served.playground),
            "lm_weight": 1.0,
            "priors": {"transition": 0.5},
        }
        pair = {"name": "guess", "a": ARM, "b": arm, "k": 5, "users": None}
        assert client.post("trial", json=pair).json()["state"] == "running"
        told = ended(client)
        report = client.get("trial/report")
        again = client.post("save", json=pair)
    assert told["state"] == "done" and told["looks"][-1]["users"] == 24 and told["total"] == 24
    assert "B" in told["verdict"]
    assert report.text.startswith("<!doctype html>") and "script-src" not in report.headers["Content-Security-Policy"]
    assert again.status_code == 422 and "there already" in again.json()["message"]
    folder = served.runs / "guess"
    config = RunConfig.read(folder / "ab.yaml")
    assert config.arms["A"].prompt_folder is None and config.arms["A"].lm_weight == 0.03
    assert config.arms["B"].lm_weight == 1.0
    assert config.arms["B"].priors == {"transition": {"window": 5, "weight": 0.5}, "wish": {"weight": 1.0}}
    assert (folder / "prompts-B" / "next_item.jinja").read_text(encoding="utf-8") == arm["text"]
    out = tmp_path / "again"
    ran = CliRunner().invoke(command_line, ["ab", "--config", str(folder / "ab.yaml"), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    one, other = (Results.read(where) for where in (folder / "run", out))
    assert one.differences == other.differences and len(one.differences) > 0
    first, last = (told["looks"][-1][end] for end in ("low", "high"))
    (row,) = [row for row in one.differences if row.metric == "ndcg@5"]
    assert (row.low, row.high) == pytest.approx((first, last))


class Slow(FakeEngine):
    """Long enough for a test to say stop before the first batch of users is done."""

    def next_logprobs(self, steps: Any) -> Any:
        """Waits first."""
        time.sleep(0.2)
        return super().next_logprobs(steps)


def test_a_trial_can_be_stopped_and_only_one_runs(serve: Any) -> None:
    with serve(engine=Slow()) as served, httpx.Client(base_url=f"{served.url}/playground/api/", timeout=30) as client:
        pair = {"name": "first", "a": ARM, "b": {**ARM, "lm_weight": 1.0}, "users": 20}
        client.post("trial", json=pair)
        second = client.post("trial", json={**pair, "name": "second"})
        client.post("trial/stop", json={})
        # requests are answered meanwhile
        assert client.post("ask", json={"arm": ARM, "user": "u3"}).status_code == 200
        told = ended(client)
    assert second.status_code == 409 and "first" in second.json()["message"]
    assert told["state"] == "done" and told["looks"][-1]["users"] == 16  # one batch, then it was stopped
    stored = json.loads((served.runs / "first" / "run" / "results.json").read_text())
    assert stored["sample"]["users"] == 16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../outside"}, "string should match"),
        ({"users": 25}, "the log has 24"),
        ({"b": {"template": "cold_start"}}, "needs prompts for the task next_item"),
        ({"b": {"template": "next_item", "text": "{{"}}, "next_item.jinja, line 1"),
    ],
)
def test_what_cannot_be_saved_leaves_nothing(serve: Any, change: dict[str, object], said: str) -> None:
    with serve() as served:
        pair = {"name": "mine", "a": ARM, "b": ARM, **change}
        answer = httpx.post(f"{served.url}/playground/api/save", json=pair)
        assert answer.status_code == 422 and said in answer.json()["message"].lower() + answer.json()["message"]
        assert not served.runs.exists()
