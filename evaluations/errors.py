"""The exception for what the user of a metric can mend."""

from __future__ import annotations


class EvaluationError(Exception):
    """One line that names the file or option, what was found and what to do."""
