"""The one file that knows NVFlare: what the room needs of it, by name.

Everything else in this room imports NVFlare's classes from here, so that one release of it is one file's
affair, and a missing one is an error that names the extra.
"""

from secagg.errors import MissingExtraError

try:
    from nvflare.apis.fl_constant import FLContextKey
    from nvflare.collab import CollabRecipe, collab
    from nvflare.collab.api.constants import FL_CONTEXT_PROP
    from nvflare.collab.api.exceptions import RunAborted
except ImportError as error:
    raise MissingExtraError(package="nvflare", extra="nvflare") from error

__all__ = ["FL_CONTEXT_PROP", "CollabRecipe", "FLContextKey", "RunAborted", "collab"]
