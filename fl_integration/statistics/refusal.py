"""The error of a question that a site does not answer."""

from collections.abc import Mapping

from secagg.errors import SecAggError

__all__ = ["QuestionRefusedError", "by_reason"]


class QuestionRefusedError(SecAggError):
    """Sites do not answer a question, and so nobody does.

    A refusal may depend on the site's rows, and then it says something about them, as silence would.

    Attributes:
        reasons: by site; no value of a row is in them.
    """

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(by_reason(reasons))
        self.reasons = dict(reasons)


def by_reason(reasons: Mapping[str, str]) -> str:
    """One sentence for each reason, after the sites that have it: what all say is said once.

    >>> by_reason({"basel": "no", "bern": "no", "wien": "too few"})
    'basel, bern: no; wien: too few'
    """
    sites: dict[str, list[str]] = {}
    for site, reason in reasons.items():
        sites.setdefault(reason, []).append(site)
    return "; ".join(f"{', '.join(who)}: {reason}" for reason, who in sites.items())
