"""The Open Inference Protocol over gRPC, with the extra `grpc`.

Only `server` is imported from outside, and only if `SERVICE_GRPC_PORT` is set. `open_inference_pb2`
is generated from `open_inference.proto`, which says how.
"""
