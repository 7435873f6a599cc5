"""Text of an exact number of words without cost while measuring: slices of one long text."""

import random
from itertools import accumulate

FIRST = "the"
"""Every prompt begins with it, because a tokeniser may treat the first word of a text differently."""
_COMMON = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea kid body information back
parent face level office door health person art war history party result change morning reason research girl guy
moment air teacher force order list report table value paper class music field court plan search sense support type
model data test note rate cost step form act age bed bird blood board boat box boy bus call card chair choice church
coffee color cup dance deal death degree dinner doctor dog dream driver earth east energy event evidence example
eyes film fire fish floor food foot front future garden glass gold ground hair half heart heat hill hope horse hotel
hospital image island key king lake land language leader letter light machine map mark market match memory message
middle mind mountain mouth movie nation nature news north ocean oil page pain peace phone picture piece price
process product project purpose race radio rain range river road rock role rule sea season seat sector seed shape
ship shop skin sky snow song sound south space speed spring square staff stage star station stone store street
summer sun surface task tax theory top town track trade train tree truth unit use user view village voice wall
weather west wife wind window winter writer
"""
WORDS = tuple(_COMMON.split())
"""Common words, each one token in most vocabularies when a space goes before it."""
BOOK_WORDS = 1 << 16


class Book:
    """A long random text, the same for everyone who has the same words and seed."""

    def __init__(self, words: tuple[str, ...], seed: str, length: int = BOOK_WORDS) -> None:
        self.words = words
        chosen = random.Random(seed).choices(words, k=length)  # noqa: S311 (text, not secrets)
        self._text = "".join(f" {word}" for word in chosen)
        self._starts = [0, *accumulate(len(word) + 1 for word in chosen)]

    def slice(self, position: int, count: int) -> str:
        """``count`` words from any position on, a space before each."""
        size = len(self._starts) - 1
        start = position % size
        end = start + count
        if end <= size:
            return self._text[self._starts[start] : self._starts[end]]
        return self._text[self._starts[start] :] + self.slice(0, end - size)

    def named(self, number: int, count: int) -> str:
        """``count`` words that spell a number, a space before each; equal only where the numbers are, modulo the
        number of words to the power of ``count``.
        """
        spelt = []
        for _ in range(count):
            number, digit = divmod(number, len(self.words))
            spelt.append(f" {self.words[digit]}")
        return "".join(spelt)
