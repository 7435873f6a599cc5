"""Every error that a person is meant to read, and the exit code it ends with.

ServeError
├── UsageError     a mistake in flags, configuration or the model's files   (exit code 2)
└── StartError     the configuration was fine, starting failed              (exit code 1)
"""


class ServeError(Exception):
    """One plain sentence: the value that was wrong and the remedy. Never shown as a traceback."""

    exit_code = 1


class UsageError(ServeError):
    """A mistake that the caller can mend in flags, configuration or files."""

    exit_code = 2


class StartError(ServeError):
    """Starting failed although the configuration was accepted."""

    exit_code = 1
