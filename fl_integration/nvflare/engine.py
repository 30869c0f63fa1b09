"""The one file that knows NVFlare: what the room needs of it, by name.

Everything else in this room imports NVFlare's classes from here, so that one release of it is one file's
affair, and a missing one is an error that names the extra.
"""

from secagg.errors import MissingExtraError

try:
    from nvflare.apis.dxo import DXO, DataKind, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.filter import Filter
    from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
    from nvflare.apis.utils.task_utils import get_filters
    from nvflare.app_common.abstract.aggregator import Aggregator
    from nvflare.app_common.abstract.model import ModelLearnableKey
    from nvflare.app_common.abstract.shareable_generator import ShareableGenerator
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.collab import CollabRecipe, collab
    from nvflare.collab.api.constants import FL_CONTEXT_PROP
    from nvflare.collab.api.exceptions import RunAborted
except ImportError as error:
    raise MissingExtraError(package="nvflare", extra="nvflare") from error

__all__ = [
    "DXO",
    "FL_CONTEXT_PROP",
    "Aggregator",
    "AppConstants",
    "CollabRecipe",
    "DataKind",
    "EventType",
    "FLContext",
    "FLContextKey",
    "Filter",
    "FilterKey",
    "ModelLearnableKey",
    "ReservedHeaderKey",
    "ReturnCode",
    "RunAborted",
    "Shareable",
    "ShareableGenerator",
    "collab",
    "from_shareable",
    "get_filters",
    "make_reply",
]
