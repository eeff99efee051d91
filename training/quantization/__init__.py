"""Makes INT8 (CPU), fp16 and bf16 (GPU) variants of a version, and checks them against fp32."""
