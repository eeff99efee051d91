"""Errors of the Open Inference routes: `{"error": "…"}`, with the status of the error."""

import orjson

from service.errors import MAX_DETAIL_LENGTH, shorten
from service.http.error_responses import ErrorResponses, describe_errors
from service.http.problem_details import CLIENT_CLOSED_REQUEST, ErrorReport, Reply, report_error


def error_message(report: ErrorReport) -> str:
    """One line about an error. If all images failed, it has the reason of the first one."""
    first = f": {report.errors[0]['detail']}" if report.errors else ""
    return shorten(f"{report.detail}{first}", MAX_DETAIL_LENGTH)


def error_reply(error: Exception, request_line: str) -> Reply:
    """Turn any error into a response. The arguments are those of `report_error`."""
    report = report_error(error, request_line)
    if report.status == CLIENT_CLOSED_REQUEST:
        return Reply(report.status, b"", code=report.code)
    body = orjson.dumps({"error": error_message(report)})
    return Reply(report.status, body, report.headers, code=report.code)


def describe_open_inference_errors(*codes: str) -> ErrorResponses:
    """The error responses of an operation, which have the message of a code and not the code."""
    return describe_errors(*codes, reply=error_reply, schema="OpenInferenceError")
