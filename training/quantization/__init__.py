"""Variants of a published version: INT8 for CPUs, fp16 and bf16 for GPUs, checked against fp32."""
