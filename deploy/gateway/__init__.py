"""Plain ASGI middlewares in front of vLLM's app, one file for each concern."""
