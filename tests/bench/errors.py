"""The bench's own error."""

from deploy.errors import ServeError


class BenchError(ServeError):
    """Something failed to run, so the bench has no figures to show. Exit code 1."""
