"""What can go wrong, as one small tree. Every message names what came, what was wanted and the next step."""


class InspectError(Exception):
    """Root of every error this package raises on purpose; the command line prints it as one sentence."""


class DataError(InspectError):
    """An image, a folder, a table or a setting is not what was asked for."""


class ParseError(InspectError):
    """A model's answer could not be read; callers turn it into an `unreadable` verdict, never into `good`."""


class ParityError(InspectError):
    """Two things that must agree do not: training and inference prompt, or a model and its export."""


class LeakageError(InspectError):
    """An evaluation was asked for on images (or near-duplicates) that the model was trained on."""


class HubError(InspectError):
    """A folder is not fit to be published, or a Hub did not give or take what was asked."""


class ForkError(InspectError):
    """A model is used in a fork of the process that loaded it."""


class MissingExtraError(InspectError):
    """An optional dependency is not installed; the message holds the pip line."""
