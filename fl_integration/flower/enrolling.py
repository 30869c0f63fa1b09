"""Where an app's enrolment comes from: a site's own files, or a rehearsal on one machine.

In earnest each site's operator makes an identity and holds the roster that all agreed on (`secagg identity`,
`secagg roster`, KEYS.md), and tells the SuperNode where they are:

    flower-supernode ... --node-config 'secagg-identity="/keys/site.pem" secagg-roster="/keys/roster.txt"
        secagg-state="/state" secagg-password-file="/keys/password"'

`by_node_config` reads that. The password may stand in the environment instead, as SECAGG_PASSWORD.

`Rehearsed` is for a simulation: identities of all sites, made from one secret in one folder. Whoever can read
the folder is everybody, so what it protects is nothing; it shows that the app runs.
"""

from dataclasses import dataclass
from pathlib import Path

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.own_files import enrolment_at, rehearsed, rehearsed_identities
from fl_integration.flower.engine import Context
from protocols.identity import Roster
from secagg.errors import ParameterError

__all__ = ["Rehearsed", "by_node_config"]


def by_node_config(context: Context) -> Enrolment:
    """The enrolment that a SuperNode's `--node-config` names: for `secure_aggregation(..., by_node_config)`.

    Raises:
        ParameterError: a setting is missing, or a file that it names is none of what it should be.
        VerificationError: the identity's file was changed.
    """
    config = context.node_config
    found = {name: config.get(f"secagg-{name}") for name in ("identity", "roster", "state")}
    if missing := [f"secagg-{name}" for name, value in found.items() if not isinstance(value, str)]:
        raise ParameterError(
            f"the SuperNode's --node-config lacks {', '.join(missing)}: paths of this site's identity, of "
            "the roster and of a folder for its state"
        )
    identity, roster, state = (str(value) for value in found.values())
    password = config.get("secagg-password-file")
    return enrolment_at(
        identity=identity,
        roster=roster,
        state=state,
        password_file=password if isinstance(password, str) else None,
        setting="secagg-password-file",
    )


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """All sites of a simulation, on one machine.

    Args:
        folder: made if it is not there; holds the secret that all identities come from, and every site's
            state. The same folder gives the same sites.
        members: how many sites.

    Raises:
        ParameterError: the folder cannot be used, or there are fewer than two members.
    """

    folder: Path
    members: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if type(self.members) is not int or self.members < 2:
            raise ParameterError(f"members is {self.members!r}; a rehearsal has at least two sites")

    @property
    def roster(self) -> Roster:
        """The roster of all sites."""
        return Roster.of(*rehearsed_identities(self.folder, self._contexts()).values())

    def enrol(self, context: Context) -> Enrolment:
        """The enrolment of the site that a simulation's node plays, by its partition-id.

        Raises:
            ParameterError: the node has no partition-id, or one beyond the members.
        """
        place = context.node_config.get("partition-id")
        if not isinstance(place, int) or not 0 <= place < self.members:
            raise ParameterError(
                f"this node's partition-id is {place!r}; a rehearsal of {self.members} sites has 0 to "
                f"{self.members - 1}"
            )
        return rehearsed(self.folder, self._contexts(), f"site-{place}")

    def _contexts(self) -> dict[str, str]:
        return {f"site-{place}": str(place) for place in range(self.members)}
