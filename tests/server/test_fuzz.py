"""Requests made from the service's own OpenAPI schema, right and wrong ones: none is a 5xx, none breaks the schema."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from llmgen.engines.fake import FakeEngine
from llmgen.priors import TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.server import create_app
from tests.conftest import films

catalog = films(20)
app = create_app(Recommender(catalog, FakeEngine(["Because of Alien."]), priors=[TextQuery(catalog)]))
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_server_error(case: schemathesis.Case) -> None:
    answer = case.call()
    if answer.status_code == 504 and "X-Timeout" in case.headers:
        return  # as it was asked for
    case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance, status_code_conformance])
