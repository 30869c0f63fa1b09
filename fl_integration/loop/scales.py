"""The first scales of a training with `AutoClip`: one small exact sum before the first round.

Every site that the first round asks trains once from the initial model, counts its update's magnitudes and
contributes the counts; what it trained is kept and contributed in the round that follows. Whoever learns the
sum makes the scales from it: the server puts them into the model that goes down, or each client goes on with
those that it opened itself, and names them in its head, so that only updates under equal scales are summed.

A sum that somebody counted falsely in makes no scales, and was seen. The next one is asked of the same sites:
of others, the difference would tell one site's magnitudes (ATTACKS A10).
"""

from collections.abc import Collection, Mapping

from fl_integration.loop.parties import FederatedClient
from fl_integration.loop.serving import FederatedServer
from fl_integration.loop.side_sums import Counts, SideSums
from fl_integration.vectors.autoclip import AutoClip
from protocols.identity import ClientId
from protocols.simulation import Traffic
from secagg.errors import ParameterError, RoundAborted

__all__ = ["fix_scales"]


def fix_scales(
    rule: AutoClip,
    sums: SideSums,
    number: int,
    clients: Mapping[ClientId, FederatedClient],
    server: FederatedServer,
    *,
    cohort: Collection[ClientId],
) -> dict[str, Traffic]:
    """Fixes the scales at whoever learns the sum, from the updates of a cohort; bytes by party.

    Raises:
        RoundAborted: the sum did not end, or nobody opened it. Nothing has changed.
    """
    layout = next(iter(clients.values())).model.layout

    def count(name: ClientId, body: bytes) -> Counts:
        client = clients[name]
        delivered = client.model.delivered if server.model is None else client.read_model(body)
        return rule.counts(client.train_ahead(delivered, round=number), layout.segments)

    found, traffic = sums.run(number, cohort, count, model=server.body, head=lambda name: clients[name].base)
    if not found:
        raise RoundAborted("no client opened the sum of magnitudes")
    try:
        scales = {
            name: rule.scales(each.total, layout.segments, sites=len(each.contributors))
            for name, each in found.items()
        }
    except ParameterError as error:  # whoever opens equal sums finds the same
        contributors = next(iter(found.values())).contributors
        sums.remember(contributors, model=server.body)
        raise RoundAborted(str(error), opened=contributors) from error
    if server.model is not None:
        server.model = server.model.scaled(next(iter(scales.values())))
    else:
        for name, each_scale in scales.items():
            clients[name].take_scales(each_scale)
    return traffic
