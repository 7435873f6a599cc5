"""The one error that the command line shows as a sentence."""


class LoadTestError(Exception):
    """A mistake in what the user gave, in one sentence with the wrong value and the remedy. Exit code 2."""
