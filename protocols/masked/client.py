"""The client of MaskedSum: Bonawitz et al., CCS'17, Figure 4, on the graph of Bell et al., CCS'20.

Each step is a pure function from a state and a request to the next state and a reply. A state holds what is
known then and no more: private keys are gone once the masks are on, the vector never stays.

On the long path a client advertises keys, deals shares, sends its masked vector and reveals shares. With its
reveals it deals the shares of the next round, which then begins at the masked vector. Against a malicious
server there is one exchange more: before anything is revealed a quorum signs who survived.

Whatever it is asked, a client reveals one kind of share for a peer, once for each dealing (`Reveal`), to no
fewer survivors than its plan, its own policy and its neighbours' policies allow.
"""

from typing import Any, ClassVar

from protocols.machine.suite import Asked, ClientContext, ClientSteps, Declined, Replied
from protocols.machine.summand import Summand
from protocols.masked.collecting import mask_input, prepare_first, prepare_next
from protocols.masked.joining import advertise_keys, share_keys
from protocols.masked.messages import (
    Announcement,
    CohortKeys,
    CollectInput,
    Quorum,
    Survivors,
)
from protocols.masked.revealing import check_consistency, check_quorum, unmask
from protocols.masked.states import FROM_SERVER, Advertised, Collecting, Confirmed, Dealt, Idle, Masked, Ready
from protocols.planning.requirements import Adversary
from secagg.errors import PeerViolation

__all__ = ["MaskedClientSteps"]


class MaskedClientSteps(ClientSteps):
    """The table of legal (state, request) pairs."""

    states: ClassVar[tuple[type, ...]] = (Idle, Ready, Advertised, Dealt, Collecting, Masked, Confirmed)

    def idle(self, state: Any) -> Idle | Ready:
        return state if isinstance(state, Ready) else Idle()

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked | Declined:
        malicious = context.suite.requirements.adversary is Adversary.MALICIOUS
        match state, request:
            case ((Idle() | Ready()), Announcement()):
                return advertise_keys(context, request)
            case Advertised(), CohortKeys():
                return share_keys(context, state, request)
            case Dealt(), CollectInput():
                return prepare_first(context, state, request)
            case Ready(), CollectInput():
                return prepare_next(context, state, request)
            case Masked(), Survivors() if malicious:
                return check_consistency(context, state, request)
            case Masked(), Quorum() if not malicious:
                return unmask(context, state, request)
            case Confirmed(), Quorum():
                check_quorum(context, state, request)
                return unmask(context, state.masked, request)
        raise PeerViolation(
            f"{type(request).__name__} came where this client is {type(state).__name__}", culprit=FROM_SERVER
        )

    def fold(self, context: ClientContext, state: Any, summand: Summand) -> Replied:
        return mask_input(context, state, summand)
