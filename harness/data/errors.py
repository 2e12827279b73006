"""The one error of the data part."""


class DataError(ValueError):
    """The data or a setting about them breaks a rule; the message is one line."""
