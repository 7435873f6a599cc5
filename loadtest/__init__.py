"""Load tests for OpenAI-compatible servers: Locust scenarios and the library that measures for them."""
