"""Temporary alias; import `deployq.alphabet`."""

from deployq.alphabet import Alphabet, alphabet, default_alphabet

__all__ = ["Alphabet", "alphabet", "default_alphabet"]
