"""The one exception of the package."""


class KlrpError(Exception):
    """An error the caller can mend: it names the argument, what came, what was expected, what to do.

    Raise it as ``KlrpError.value(...)``, ``.type(...)`` or ``.key(...)`` where the built-in exception of that
    kind is what a Python user would catch; all are subclasses of ``KlrpError``.
    """

    @staticmethod
    def value(message: str) -> "KlrpError":
        return KlrpValueError(message)

    @staticmethod
    def type(message: str) -> "KlrpError":
        return KlrpTypeError(message)

    @staticmethod
    def key(message: str) -> "KlrpError":
        return KlrpKeyError(message)


class KlrpValueError(KlrpError, ValueError):
    """A value outside what is expected."""


class KlrpTypeError(KlrpError, TypeError):
    """An object of another type than what is expected."""


class KlrpKeyError(KlrpError, KeyError):
    """A name that a mapping does not have."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


class SampleAxisError(KlrpValueError):
    """A value of a network whose first axis is not that of the samples."""
