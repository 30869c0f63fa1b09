"""The error of a question that a site does not answer."""

from collections.abc import Mapping

from secagg.errors import SecAggError

__all__ = ["QuestionRefusedError"]


class QuestionRefusedError(SecAggError):
    """Sites do not answer a question, and so nobody does.

    A refusal may depend on the site's rows, and then it says something about them, as silence would.

    Attributes:
        reasons: by site; no value of a row is in them.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{site}: {reason}" for site, reason in reasons.items()))
        self.reasons = dict(reasons)
