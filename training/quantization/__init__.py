"""Other precisions of a published version: INT8 for CPUs, fp16 and bf16 for GPUs, each held against fp32."""
