"""Checkers of the book's exercises: `check` says whether an answer is right, and on which input it is not."""

from klrp.exercises.checking import Check, NotYet, check, labels

__all__ = ["Check", "NotYet", "check", "labels"]
