"""The files of `deploy/` fit this version: options, routes, ports, and the files that the image is made of."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from llmgen import Catalog, Item, Recommender
from llmgen.cli import store as storing
from llmgen.cli.main import app

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def option_names(command: str, group: typer.Typer = app) -> set[str]:
    found = typer.main.get_command(group).commands[command]  # type: ignore[attr-defined]
    return {option for parameter in found.params for option in parameter.opts}


def unknown(arguments: Sequence[str], command: str = "serve", group: typer.Typer = app) -> list[str]:
    given = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    return [option for option in given if option not in option_names(command, group)]


def instruction(name: str) -> Any:
    (found,) = re.findall(rf"^{name} (.+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return json.loads(found) if found.startswith("[") else found


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def routes() -> set[str]:
    from llmgen.server import create_app

    return set(create_app(Recommender(Catalog([Item("1", "One")]), None)).openapi()["paths"])


def test_an_option_that_serve_lacks_is_found() -> None:
    assert unknown(["--engine=none", "--max-queue", "8", "--wokers=4"]) == ["--wokers"]


def test_the_image_starts_the_service_with_its_options() -> None:
    start, default = instruction("ENTRYPOINT"), instruction("CMD")
    assert start[:2] == ["llmgen", "serve"]
    assert unknown([*start, *default]) == []
    assert instruction("EXPOSE") == start[start.index("--port") + 1]


def test_what_the_image_copies_is_there() -> None:
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in sent  # and so nothing but
    for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY ") and "--from=" not in line:
            for source in shlex.split(line)[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in sent, source


def test_the_container_is_safe_by_default(routes: set[str]) -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert instruction("USER") == "1000:1000"  # a number, so that Kubernetes sees that it is not root
    assert isinstance(instruction("ENTRYPOINT"), list)  # no shell stands between it and its signals
    checked = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").partition("HEALTHCHECK")[2].splitlines()[1]
    command = json.loads(checked.strip().removeprefix("CMD "))
    assert set(re.findall(r"localhost:8000(/\w+)", command[-1])) <= routes
    owned = set(instruction("VOLUME"))
    for name, users in (("compose.yaml", ["llmgen"]), ("compose-store.yaml", ["llmgen", "import", "batch"])):
        (compose,) = documents(name)
        for service in (compose["services"][user] for user in users):
            assert service["read_only"] and service["tmpfs"] == ["/tmp"]
            assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
            healthcheck = service["healthcheck"]
            assert healthcheck.get("disable") or healthcheck["test"] == ["CMD", *command]
            for source, _, target in (mount.partition(":") for mount in service["volumes"]):
                folder, _, kind = target.partition(":")  # a volume belongs to root where the image has no such folder
                assert source.startswith("..") or kind == "ro" or folder in owned, folder
    deployment, _ = documents("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    limits = container["securityContext"]
    assert limits["readOnlyRootFilesystem"] and not limits["allowPrivilegeEscalation"]
    assert limits["capabilities"] == {"drop": ["ALL"]}
    assert {"/tmp", *owned} == {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_image_takes_the_torch_that_make_takes() -> None:
    (torch,) = re.findall(r"^TORCH := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert torch in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_compose_fits(routes: set[str]) -> None:
    (compose,) = documents("compose.yaml")
    service, model = compose["services"]["llmgen"], compose["services"]["model"]
    assert unknown(service["command"]) == []
    port = model["command"][model["command"].index("--port") + 1]
    assert f"--engine=openai:http://model:{port}" in service["command"]
    assert service["ports"] == [f"8000:{instruction('EXPOSE')}"]
    (asked,) = re.findall(r"localhost:8000(/\w+)", service["healthcheck"]["test"][-1])
    assert asked in routes
    named = {mount.partition(":")[0] for one in (service, model) for mount in one["volumes"]}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])


def test_the_shop_on_a_store_fits(routes: set[str]) -> None:
    (compose,) = documents("compose-store.yaml")
    services = compose["services"]
    assert unknown(services["llmgen"]["command"]) == []
    assert unknown(services["import"]["command"], "import", storing.app) == []
    assert unknown(services["batch"]["command"], "batch") == []
    assert services["import"]["entrypoint"] == ["llmgen", "store", "import"]
    stores = {one for name in ("llmgen", "import", "batch") for one in services[name]["command"] if "://" in one}
    (url,) = stores
    database = services["database"]["environment"]
    assert url.startswith(f"postgresql://{database['POSTGRES_USER']}:")
    assert url.endswith(f"@database/{database['POSTGRES_DB']}")
    (asked,) = re.findall(r"localhost:8000(/\w+)", services["llmgen"]["healthcheck"]["test"][-1])
    assert asked in routes


def test_the_dashboard_shows_what_the_service_counts() -> None:
    from llmgen.server.metrics import Metrics

    metrics = Metrics(lambda: 0, lambda: (0, 0))
    metrics.fitted(lambda: 0.0)
    labels = {
        "requests": ("/v1/recommend", "200"),
        "seconds": ("/v1/recommend",),
        "answers": ("yes",),
        "places": ("trie",),
    }
    for counted, values in labels.items():
        getattr(metrics, counted).labels(*values)
    there: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            there.setdefault(sample.name, set()).update(sample.labels)
    panels = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))["panels"]
    expressions = [one["expr"] for panel in panels for one in panel["targets"]]
    for expression in expressions:
        for name, chosen in re.findall(r"(llmgen_\w+)(\{[^}]*\})?", expression):
            assert name in there, expression
            assert set(re.findall(r"(\w+)=", chosen)) <= there[name], expression
            for grouped in re.findall(r"by \((\w+)\)", expression):
                assert grouped in there[name], expression
        # nobody counts what has never happened: a share of it is 0, and not unknown
        share = re.search(r"sum\(rate\(\w+\{[^}]*\}\[5m\]\)\) /", expression)
        assert share is None, expression
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def test_kubernetes_fits(routes: set[str]) -> None:
    from llmgen.server.run import GRACE_S

    deployment, service = documents("kubernetes.yaml")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert unknown(container["args"]) == []
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes["readinessProbe"]["path"] == "/ready"
    assert probes["livenessProbe"]["path"] == "/health"
    assert {probe["path"] for probe in probes.values()} <= routes
    (port,) = container["ports"]
    assert str(port["containerPort"]) == instruction("EXPOSE")
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = deployment["spec"]["selector"]["matchLabels"]
    assert labels == pod["metadata"]["labels"] == service["spec"]["selector"]
    (drain,) = (float(one.partition("=")[2]) for one in container["args"] if one.startswith("--drain="))
    assert pod["spec"]["terminationGracePeriodSeconds"] > GRACE_S + drain
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["spec"]["volumes"]}
