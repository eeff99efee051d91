"""Serves the versions of a model store. Imports `model_store`, never `training`, torch or onnx.

The path of a prediction request, file by file:

    ====  =========================  ========================================  ==================
    step  file                       what happens                              rejects with
    ====  =========================  ========================================  ==================
    1     http/request_limits        parse the head; close if it is slow       400, 501
    2     http/predict_endpoint      route, API key, lease a version           401, 403, 404, 503
    3     http/query_params          parse the query                           400
    4     http/request_body          read the body, split it into images       400, 408, 413, 415
    5     prediction/pipeline        run steps 6 to 9 for all images           504
    6     prediction/admission       reserve places, check the deadline       413, 429
    7     prediction/decode_pool     decode to pixels, here or in a process   400, 413, 415, 429
    8     engine/batcher             wait for a batch and run it               500, 504
    9     engine/loaded_version      `model_store.session`, probabilities      500
    10    prediction/response        build the document                        --
    ====  =========================  ========================================  ==================

Before step 2, `http/refusals` checks the host (421) and the rate of the client (429). A full queue
is noticed before the body is read. Most requests are then rejected by `http/early_rejection`, right
after step 1, so that they cost little.

Steps 3, 4 and 10 are those of the image API, `http/image_api`; `http/dialect` says what another
protocol provides. Image URLs, where they are allowed, are fetched after step 4
(`prediction/image_fetcher`). In step 8, each image is an `engine/queued_image`, those of a tensor
are an `engine/image_group`, and `engine/lone_run` says how a lone image is run. Step 9 uses
`engine/classification` for the probabilities. `http/predict_endpoint` then writes the response,
counts it (`http/metrics`), logs it (`http/access_log`) and ends its span (`http/request_tracing`).
Errors become responses in `http/problem_details`. `prediction/request` has the values that these
steps pass on.

`versions/` decides which versions can be leased. `workers/` runs several processes, each of which
answers requests as above.
"""

import model_store  # noqa: F401  turns off telemetry before a module imports onnxruntime or mlflow
