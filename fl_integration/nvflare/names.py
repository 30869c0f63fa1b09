"""That a site is who its startup kit says: one name for NVFlare's site, its certificate and its identity.

NVFlare lets a site in by the certificate of its startup kit; a secure sum counts it by the key that the
roster has. Were the two different parties, a record that names one would speak of the other. So a site takes
part only where its NVFlare name, the common name of a certificate that is valid now and issued by the kit's
own root, and the name of its identity are one. The server, for its part, counts at each site only the member
of that name.

In NVFlare's simulator there are no certificates, and one machine is everybody: the names alone are compared.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from fl_integration.nvflare.here import Here
from fl_integration.site.whole_files import read_whole
from protocols.identity import ClientId
from secagg.errors import ParameterError, VerificationError

__all__ = ["check_names"]

CERTIFICATE: Final = "client.crt"
ROOT: Final = "rootCA.pem"
MOST_BYTES: Final = 1 << 16


def _now() -> datetime:
    return datetime.now(UTC)


def check_names(here: Here, client: ClientId, *, now: Callable[[], datetime] = _now) -> None:
    """Returns if a site, its certificate and its identity have one name.

    Args:
        here: the site.
        client: the name of its identity.
        now: the time, with its zone.

    Raises:
        VerificationError: they have not; or the certificate is not valid now, is not its root's, or is not
            there although no simulator runs.
    """
    if client != here.name:
        raise VerificationError(
            f"NVFlare's name of this site is {here.name!r}, its identity's is {client!r}; a site takes part "
            "under one name: make an identity of that name, and have it in the roster"
        )
    if here.simulated and not (here.startup / CERTIFICATE).exists():
        return
    certificate, root = _certificate(here.startup / CERTIFICATE), _certificate(here.startup / ROOT)
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [here.name]:
        raise VerificationError(
            f"the certificate in this site's startup kit names {' and '.join(map(repr, names)) or 'nobody'}, "
            f"NVFlare's name of the site is {here.name!r}; a site runs from its own kit"
        )
    for each, of in ((certificate, "this site's certificate"), (root, "the root of its startup kit")):
        if not each.not_valid_before_utc <= now() <= each.not_valid_after_utc:
            raise VerificationError(
                f"{of} is valid from {each.not_valid_before_utc:%Y-%m-%d %H:%M} to "
                f"{each.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, which is not now: look at this site's "
                "clock, or provision anew"
            )
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):  # another key, another name, another kind of key
        raise VerificationError(
            "this site's certificate is not issued by the root of its startup kit; a site runs from its own "
            "kit"
        ) from None


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_whole(path, maximum=MOST_BYTES))
    except ParameterError:  # its text has this site's folders
        raise VerificationError(
            f"this site's startup kit has no {path.name} that can be read; outside of NVFlare's simulator a "
            "site proves its name by the certificate of its kit"
        ) from None
    except ValueError:
        raise VerificationError(f"{path.name} in this site's startup kit is no certificate") from None
