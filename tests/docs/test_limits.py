"""Every row of the table of limits has a test."""

import ast
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/reference/limits.md"
HTTP: Final = "tests/service/http"
CHAOS: Final = "tests/service/chaos"
GRPC: Final = "tests/service/protocols"
TEST_OF_LIMIT: Final = {
    "request head": f"{HTTP}/test_exact_limits.py::test_bound_of_a_head_is_exact",
    "trailers, or chunk headers without a body": f"{HTTP}/test_exact_limits.py"
    "::test_limit_of_framing_is_exact",
    "`Content-Length`": f"{HTTP}/test_hostile_clients.py"
    "::test_length_and_coding_of_a_body_are_checked",
    "`Transfer-Encoding`": f"{HTTP}/test_hostile_clients.py"
    "::test_length_and_coding_of_a_body_are_checked",
    "pipelined requests of one connection": f"{HTTP}/test_hostile_clients.py"
    "::test_few_of_many_pipelined_requests_are_held",
    "pipelined bytes of all connections": f"{HTTP}/test_http_clients.py"
    "::test_client_that_pipelines_is_answered_in_order",
    "unread rest of a body after its response": f"{HTTP}/test_exact_limits.py"
    "::test_limit_of_an_unread_body_is_exact",
    "bytes sent after the connection was closed": f"{HTTP}/test_hostile_clients.py"
    "::test_endless_framing_of_a_body_is_cut_off",
    "time to read a response": f"{HTTP}/test_hostile_clients.py"
    "::test_client_that_does_not_read_is_disconnected",
    "headers of one part of a form": f"{HTTP}/test_request_body.py"
    "::test_hostile_form_is_refused_quickly",
    "text fields of a form, besides its images": f"{HTTP}/test_client_bodies.py"
    "::test_form_may_have_as_many_text_fields_as_documented",
    "input repeated in an error's `detail`": f"{HTTP}/test_hostile_clients.py"
    "::test_long_input_is_shortened_in_the_answer",
    "log lines that wait for a reader": f"{HTTP}/test_access_log.py"
    "::test_reader_that_stops_blocks_nobody",
    "time for the head, and then for the body": f"{HTTP}/test_http_limits.py"
    "::test_slow_sender_gets_408",
    "images of a ZIP archive after decompression": f"{HTTP}/test_zip_body.py"
    "::test_total_size_is_limited_before_decompression",
    "an image of more than 1 MiB in a ZIP archive": f"{HTTP}/test_zip_body.py"
    "::test_entry_that_shrinks_far_too_much_is_not_decompressed",
    "images behind URLs, together": "tests/service/prediction/test_image_fetcher.py"
    "::test_bytes_of_all_images_are_limited_and_reserved",
    "time to fetch one image, within the deadline": "tests/service/prediction/test_image_fetcher.py"
    "::test_silent_host_is_left",
    "redirects of an image URL, to allowed hosts only": (
        "tests/service/prediction/test_image_fetcher.py::test_endless_redirects_end"
    ),
    "entries of a ZIP archive that are not images": f"{HTTP}/test_zip_body.py"
    "::test_directory_of_countless_entries_is_not_parsed",
    "body of one request": f"{HTTP}/test_http_limits.py"
    "::test_body_of_exactly_the_limit_is_accepted",
    "bodies held at once": f"{HTTP}/test_http_errors.py::test_mixed_load_releases_everything",
    "query parameters": f"{HTTP}/test_request_limits.py::test_query_parameters_are_limited",
    "body of a management request": f"{HTTP}/test_request_limits.py"
    "::test_body_of_a_management_request_is_limited",
    "`top_k`": f"{HTTP}/test_http_predict.py"
    "::test_more_classes_than_the_limit_are_an_invalid_parameter",
    "explained labels of all images of a request": f"{HTTP}/test_explain.py"
    "::test_explanations_of_a_request_are_limited",
    "images in one request": f"{HTTP}/test_http_limits.py"
    "::test_more_images_than_the_limit_are_rejected",
    "pixels of one image, by its header": f"{HTTP}/test_http_limits.py"
    "::test_more_pixels_than_the_limit_are_rejected",
    "images of one model in progress": f"{HTTP}/test_http_limits.py"
    "::test_overload_is_a_429_with_retry_after",
    "time of one request": f"{HTTP}/test_http_limits.py::test_deadline_is_a_504",
    "time of one model run": "tests/service/engine/test_watchdog.py"
    "::test_service_answers_500_for_a_hanging_run",
    "fields of a gRPC message besides its images": f"{GRPC}/test_grpc_message_fields.py"
    "::test_costly_messages_are_rejected_by_their_encoding",
    "pixels as numbers in a gRPC message (`uint_contents`)": f"{GRPC}/test_grpc_message_fields.py"
    "::test_costly_messages_are_rejected_by_their_encoding",
    "gRPC calls at once": f"{GRPC}/test_grpc_access.py::test_calls_at_once_are_limited",
    "gRPC messages that arrive at once": f"{GRPC}/test_grpc_slow_messages.py"
    "::test_call_that_finds_no_place_is_rejected",
    "time for a gRPC message": f"{GRPC}/test_grpc_slow_messages.py::test_message_has_a_time_limit",
    "`id` of an Open Inference request": f"{GRPC}/test_open_inference_malformed.py"
    "::test_malformed_request_gets_a_message",
    "open streams of `/page/live`, per worker": "tests/service/page/test_live_view.py"
    "::test_number_of_streams_is_limited",
    "idle connection": f"{HTTP}/test_client_limits.py"
    "::test_idle_connection_is_closed_after_its_time",
    "connections of one client address": f"{HTTP}/test_client_limits.py"
    "::test_connections_of_a_client_are_limited",
    "connections": f"{CHAOS}/test_chaos_resources.py::test_no_descriptors_left",
    "threads and processes": f"{CHAOS}/test_chaos_exhaustion.py::test_no_threads_left",
    "memory of a process, on CPUs": f"{CHAOS}/test_chaos_exhaustion.py"
    "::test_model_that_allocates_without_end_fails_its_request",
    "requests of one client address per second": f"{HTTP}/test_client_limits.py"
    "::test_requests_of_a_client_are_limited",
    "requests of one API key per second": f"{HTTP}/test_key_lifetime.py::test_limit_over_http",
    "name in the header `Host`, on loopback addresses": f"{HTTP}/test_host_check.py"
    "::test_name_of_a_rebound_page_is_misdirected",
}


def rows() -> list[str]:
    table = PAGE.read_text().split("## ", 1)[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [line.split("|")[1].strip() for line in lines[1:]]


def test_every_limit_has_a_test() -> None:
    assert set(rows()) == set(TEST_OF_LIMIT)


@pytest.mark.parametrize("test", sorted(set(TEST_OF_LIMIT.values())))
def test_named_test_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    functions = [node.name for node in ast.walk(tree) if hasattr(node, "name")]
    assert name in functions
