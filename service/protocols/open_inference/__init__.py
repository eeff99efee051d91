"""The Open Inference Protocol (version 2), which Triton and KServe clients speak.

Source: https://github.com/kserve/open-inference-protocol, and Triton's extensions of it.

=============  ===================================================================
file           what it has
=============  ===================================================================
tensors        datatypes, and tensors as bytes
images         from input tensors to the images of a request
parameters     what the parameters of a request ask for
infer_request  a request, with its images and parameters
outputs        from results to output tensors
rest_request   the body of an inference request over HTTP
rest_response  the body of its response
rest_infer     the dialect of the inference routes, for `http/predict_endpoint`
routes         all other routes
metadata       metadata and configuration of a model
statistics     counts and times of versions
repository     index, load and unload
errors         `{"error": …}`
number_text    long arrays of pixels in JSON, without a JSON parser
schemas        the documents of the routes
openapi        what the OpenAPI document says about the inference routes
=============  ===================================================================
"""
