"""Serves the versions of a model store. Imports `model_store`, never `training`, torch or onnx.

The path of a prediction request, file by file:

    ====  =========================  ========================================  ==================
    step  file                       what happens                              rejects with
    ====  =========================  ========================================  ==================
    1     http/request_limits        parse the head, within limits             400, closes if slow
    2     http/predict_endpoint      route, API key, lease a version           401, 403, 404, 503
    3     http/query_params          parse the query                           400
    4     http/request_body          read the body, split it into images       400, 408, 413, 415
    5     prediction/pipeline        run steps 6 to 9 for all images           504
    6     prediction/admission       check the queue and the deadline          413, 429
    7     prediction/decode_pool     decode to pixels, here or in a process   400, 413, 415, 429
    8     engine/batcher             wait for a batch and run it               500, 504
    9     engine/loaded_version      `model_store.session`, probabilities      500
    10    prediction/response        build the document                        --
    ====  =========================  ========================================  ==================

While a queue is full, `http/early_rejection` rejects most requests after step 1, so that they cost
little. Steps 3, 4 and 10 are those of the image API; `http/dialect` says what another protocol
provides. `http/predict_endpoint` then writes the response, counts it (`http/metrics`) and logs it
(`http/access_log`). Errors become responses in `http/problem_details`. `prediction/request` has the
values that these steps pass on. `versions/` decides which versions can be leased.
"""

import model_store  # noqa: F401  turns off telemetry before a module imports onnxruntime or mlflow
