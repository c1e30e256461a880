"""Define the errors of this package; each message is one line: what, why, and the remedy."""


class TriplexError(Exception):
    """Base class of the errors that this package raises on purpose."""


class ConfigError(TriplexError):
    """A model or option value is unknown or out of range."""


class CheckpointError(TriplexError):
    """A checkpoint cannot be read, or is not of a known format."""


class BundleError(TriplexError):
    """A bundle is missing, incomplete, altered, or of an unknown schema."""


class ContractError(TriplexError):
    """A tensor or a value does not have the name, type or shape that its contract declares."""


class BackendError(TriplexError):
    """The requested device, backend or precision is not available on this machine."""


class ParityError(TriplexError):
    """An exported graph does not reproduce the PyTorch model within its gate."""


class SlideError(TriplexError):
    """A slide cannot be opened, read, or placed on a physical scale."""


class SpotsError(TriplexError):
    """A spots file or layout yields no usable spots."""


class TilingError(TriplexError):
    """An array for the tiling kernels has the wrong dtype, layout or bounds."""


class DatasetError(TriplexError):
    """Measured expression on disk cannot be read, or its parts do not belong together."""


class OutputError(TriplexError):
    """A result cannot be written to the requested place."""


def one_line(error: BaseException) -> str:
    """Return an error as one line; an error that is not a ``TriplexError`` is named as a bug."""
    text = " ".join(str(error).split())
    if isinstance(error, TriplexError):
        return text
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "no more threads can be started; raise the limit of processes (`ulimit -u`)"
    name = type(error).__name__
    return f"unexpected {name}: {text}; run again with -vv and report the traceback"
