"""The one error that the command line shows as a sentence, and the exit code of what was interrupted."""

INTERRUPTED = 130
"""As a shell reports a program that SIGINT ended: 128 and the signal's number."""


class LoadTestError(Exception):
    """A mistake in what the user gave, in one sentence with the wrong value and the remedy. Exit code 2."""


class TrialError(LoadTestError):
    """One trial of several could not be measured, for a reason that the next one need not have."""
