"""mistral-serve: a serving deployment for Mistral 7B on vLLM and Ray Serve."""
