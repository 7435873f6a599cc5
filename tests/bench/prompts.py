"""Prompts that no prefix cache can help with: everything that differs stands at the start."""

import random

# Everyday words, nearly all of them one token each.
_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea body information
"""


def prompt(nonce: str, index: int, words: int) -> str:
    """A prompt of ``words`` words: first the run's nonce and the index, then words that the index alone decides."""
    choose = random.Random(index)
    return " ".join([f"{nonce}-{index}", *choose.choices(_TEXT.split(), k=words - 1)])


def prompts(nonce: str, first: int, count: int, words: int) -> list[str]:
    """``count`` prompts with the indexes from ``first`` on."""
    return [prompt(nonce, index, words) for index in range(first, first + count)]
