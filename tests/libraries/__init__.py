"""Our code against the real vLLM, transformers, Ray and Redis, without a server of ours."""
