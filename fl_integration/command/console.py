"""A console that can write less than UTF-8 gets plainer text, never an error.

Windows consoles still speak cp1252 at times, and jobs run under LC_ALL=C. A character that such a stream
cannot write becomes what a typewriter would write for it, or a question mark.

>>> import io
>>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
>>> degrade(stream)
>>> _ = stream.write("10⁶ values — 3.0× fewer bytes, Zürich")
>>> stream.flush(); stream.buffer.getvalue()
b'10^6 values - 3.0x fewer bytes, Zurich'
"""

import codecs
import io
import unicodedata
from typing import Final, TextIO

__all__ = ["degrade"]

_HANDLER: Final = "secagg-plainer"
_PLAINER: Final = str.maketrans(
    {
        **{digit: f"^{value}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
        **dict.fromkeys("–—−─━═", "-"),
        **dict.fromkeys("│┃║", "|"),
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("“”„", '"'),
        **{"×": "x", "·": ".", "…": "...", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "±": "+-", "•": "*"},
    }
)


def degrade(*streams: TextIO) -> None:
    """Makes these streams write plainer text where they would raise `UnicodeEncodeError`."""
    codecs.register_error(_HANDLER, _plainer)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):  # what a test or a notebook puts there takes any text
            stream.reconfigure(errors=_HANDLER)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAINER)
    letters = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return letters.encode("ascii", "replace").decode("ascii"), error.end
