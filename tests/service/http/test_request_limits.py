"""Limits of query parameters and of management requests."""

import httpx
import pytest
from colour_model import MODEL, plain, publish
from http_problems import check_problem
from operating import operating

from model_store.store import ModelStore
from service.http.management import MAX_BODY_BYTES
from service.http.query_params import MAX_QUERY_FIELDS

RED = plain("red")


@pytest.mark.parametrize("route", ["/v1/predict", f"/v1/models/{MODEL}/embed"])
def test_query_parameters_are_limited(client: httpx.Client, route: str) -> None:
    """More than 100 are not even parsed."""
    query = "&".join(["top_k=1"] * (MAX_QUERY_FIELDS + 1))
    check_problem(client.post(f"{route}?{query}", content=RED), 400, "invalid_parameter")


def test_body_of_a_management_request_is_limited(store: ModelStore) -> None:
    """A body of the limit is parsed, and one of a byte more is too large."""
    store.promote(MODEL, publish(store))
    with operating(store) as operator:
        for size, status in ((MAX_BODY_BYTES, 400), (MAX_BODY_BYTES + 1, 413)):
            body = b'{"why": "' + b"x" * (size - 11) + b'"}'
            response = operator.client.post(f"/v1/models/{MODEL}/rollback", content=body)
            assert response.status_code == status
