"""NVFlare: secure sums over its Collab API; filters and an aggregator in place of its homomorphic ones.

On the server `SecureClients` stands where Collab's main function would call its clients; at a site
`secure_aggregation` is the one method that is published. Neither holds any protocol: both carry parcels for
`fl_integration.embedding`. The README in this folder is the manual.
"""

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.site_model import SiteModel, site_model
from fl_integration.nvflare.enrolling import Rehearsed, by_site_files
from fl_integration.nvflare.server import SecureClients, SecureRound
from fl_integration.nvflare.site import secure_aggregation

__all__ = [
    "Enrolment",
    "Patience",
    "Rehearsed",
    "SecureClients",
    "SecureRound",
    "SiteModel",
    "by_site_files",
    "secure_aggregation",
    "site_model",
]
