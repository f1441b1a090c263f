"""The one exception of the package."""


class KlrpError(Exception):
    """An error the caller can mend: it names the argument, what came, what was expected, what to do.

    Raise it as ``KlrpError.value(...)`` or ``KlrpError.type(...)`` where the built-in exception of that
    kind is what a Python user would catch; both are subclasses of ``KlrpError``.
    """

    @staticmethod
    def value(message: str) -> "KlrpError":
        return KlrpValueError(message)

    @staticmethod
    def type(message: str) -> "KlrpError":
        return KlrpTypeError(message)


class KlrpValueError(KlrpError, ValueError):
    """A value outside what is expected."""


class KlrpTypeError(KlrpError, TypeError):
    """An object of another type than what is expected."""
