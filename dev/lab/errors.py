"""The exception that users see as a message, without a traceback."""


class LabError(Exception):
    """What is wrong, why, and what to do. The text is shown as it is."""
