"""The errors a caller is meant to catch; each message names the argument or file and what would be right."""


class SeemoreError(Exception):
    """Base of every error that seemore-fast raises for bad input or a missing capability."""


class CheckpointError(SeemoreError):
    """A weights file that cannot be read, or does not describe a SeemoRe network."""


class ImageError(SeemoreError):
    """A picture that cannot be read or written."""


class VideoError(SeemoreError):
    """A video that cannot be read or written."""


class BackendError(SeemoreError):
    """A backend, device or dtype that is unknown or not available here; says why."""


class DeviceError(BackendError):
    """A call of a GPU's driver failed: for now, or for good."""


class PackageError(SeemoreError):
    """An optional package that is not installed, or does not import; names the extra that brings it."""


class Cancelled(SeemoreError):
    """The caller's ``cancelled`` callback has said so."""
