"""The one exception tree of the project.

    ReproError                   anything that ninefold raises on purpose
     +-- ConfigError             a value that the user gave is not one of those allowed; the command exits with status 2
     |    +-- UnknownName        a name that no registry holds (also a KeyError, as a mapping would raise)
     +-- DataUnavailable         a dataset, model or trace cannot be had here; says how to get it
     +-- CorruptBitstream        bytes that are truncated, damaged, or made by another encoder
     +-- ResultsError            stored results are missing, damaged, or would be mixed
          +-- UndefinedStatistic the rows are there, the number is 0/0

Messages are one line: what was wrong with which value; what is allowed; what to do next.
"""


class ReproError(Exception):
    """Base of every error that ninefold raises on purpose."""


class ConfigError(ReproError):
    """A value given by the user is not allowed."""


class UnknownName(ConfigError, KeyError):
    """A name that is not registered.

    Also a `KeyError`, because a registry is a mapping. `str()` gives the message itself: `KeyError` would print its repr.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DataUnavailable(ReproError):
    """Data or weights that cannot be reached from this machine."""


class CorruptBitstream(ReproError):
    """Bytes that cannot be decoded to what was encoded."""


class ResultsError(ReproError):
    """Stored results are missing, damaged, or would be averaged across a key that was neither fixed nor plotted."""


class UndefinedStatistic(ResultsError):
    """The rows are all there, but the number that they define is 0/0: a baseline and a method that both never failed, say."""
