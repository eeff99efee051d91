"""Every error code that a client can receive, with its status and its meaning.

The reference page is generated from this table, and a test compares it with the code.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final


@dataclass(frozen=True)
class ErrorCode:
    status: HTTPStatus
    meaning: str


ERROR_CODES: Final[dict[str, ErrorCode]] = {
    code: ErrorCode(HTTPStatus(status), meaning)
    for code, status, meaning in (
        ("empty_body", 400, "The request has no body. Send an image."),
        ("empty_image", 400, "One image of the request has no bytes."),
        ("no_images", 400, "The form or the JSON body contains no image."),
        ("not_an_image", 400, "The bytes do not start like any image format."),
        ("truncated_image", 400, "The image ends too early. Check the upload."),
        ("corrupt_image", 400, "The image cannot be decoded."),
        ("image_too_expensive", 400, "Decoding the image takes too much time or memory."),
        ("malformed_json", 400, "The body is not the JSON that the route expects."),
        ("malformed_base64", 400, "An image of the JSON body is not base64 (RFC 4648)."),
        ("malformed_multipart", 400, "The form cannot be parsed, or `images` is text."),
        ("malformed_tensor", 400, "A tensor has another datatype, shape or size than expected."),
        ("malformed_zip", 400, "The ZIP archive is damaged, encrypted or compressed unusually."),
        ("url_not_allowed", 400, "`SERVICE_FETCH_ALLOW` does not allow the URL of an image."),
        ("invalid_parameter", 400, "A path or query parameter has an invalid value."),
        ("no_label_sets", 400, "`coverage` was given, but the model has no calibration for it."),
        ("no_embedding", 400, "The model has no embedding. See `embedding_dims` of its details."),
        ("no_explanation", 400, "`explain` was given, but the version cannot be explained."),
        ("no_image_classified", 400, "Every image failed, for different reasons: see `errors`."),
        ("unauthorized", 401, "The API key is missing, unknown or expired."),
        ("insufficient_scope", 403, "The API key does not have the scope of this route."),
        ("management_disabled", 403, "No key has the scope `manage`, so these routes are closed."),
        ("model_not_found", 404, "The store has no model of this name."),
        ("version_not_found", 404, "This version does not exist or is not served."),
        ("alias_not_found", 404, "The model has no alias of this name."),
        ("report_not_found", 404, "The version has no report."),
        ("example_not_found", 404, "The version has no example image of this index."),
        ("no_default_model", 404, "There is no default model. Name a model in the path."),
        ("route_not_found", 404, "There is no such route. `GET /docs` lists them."),
        ("method_not_allowed", 405, "The route exists for another method."),
        ("slow_body", 408, "The body did not arrive in time."),
        ("version_failed", 409, "The version cannot be loaded or proven; `detail` says why."),
        ("last_version", 409, "The last version of a required model cannot be unloaded."),
        ("alias_not_moved", 409, "The alias cannot be moved, or moved at the same time."),
        ("store_read_only", 409, "This replica cannot write to its store."),
        ("not_unloaded", 409, "The version is still served; `detail` says why."),
        ("body_too_large", 413, "The body is larger than `SERVICE_MAX_BODY_BYTES`."),
        ("too_many_images", 413, "The request has more images than are allowed."),
        ("too_many_pixels", 413, "An image has more pixels than `SERVICE_MAX_PIXELS`."),
        (
            "unsupported_media_type",
            415,
            "The body is neither an image, a form, JSON nor a ZIP archive.",
        ),
        ("unsupported_encoding", 415, "`Content-Encoding` is not supported."),
        ("unsupported_image", 415, "The image format, or this variant of it, is not supported."),
        ("host_not_allowed", 421, "`SERVICE_ALLOWED_HOSTS` lacks the name in the header `Host`."),
        (
            "overloaded",
            429,
            "The queue is full, the deadline is too close, or memory is short. See `Retry-After`.",
        ),
        ("rate_limited", 429, "The client or its key sent too many requests. See `Retry-After`."),
        ("inference_failed", 500, "The model failed on this batch. The server's log has details."),
        ("invalid_model_output", 500, "The model returned NaN or infinity for this image."),
        ("internal_error", 500, "The service failed. The server's log has details."),
        ("fetch_failed", 502, "The host of an image URL did not send the image."),
        ("not_ready", 503, "No version of the model is loaded, or the store cannot be read."),
        ("deadline_exceeded", 504, "The deadline passed before the answer was ready."),
    )
}
