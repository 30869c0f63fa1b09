"""Flower: secure sums under its own strategies, on its own engine.

On the server `SecureGrid` stands where a strategy expects a grid; on the client `secure_aggregation` is a
mod. Neither holds any protocol: both carry parcels for `fl_integration.embedding`. The README in this folder
is the manual, `quickstart/` an app that runs, and CLIENTS.md says what it means that the clients learn.
"""

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.site_model import SiteModel, site_model
from fl_integration.flower.enrolling import Rehearsed, by_node_config
from fl_integration.flower.grid import SecureGrid
from fl_integration.flower.mod import secure_aggregation

__all__ = [
    "Enrolment",
    "Patience",
    "Rehearsed",
    "SecureGrid",
    "SiteModel",
    "by_node_config",
    "secure_aggregation",
    "site_model",
]
