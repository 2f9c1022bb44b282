"""The one exception that the lab's users see as a message instead of a traceback."""


class LabError(Exception):
    """What went wrong, why, and what to do; its text is shown as it is."""
