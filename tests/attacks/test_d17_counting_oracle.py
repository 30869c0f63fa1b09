"""D17: a server that asks the sites' test examples: a model of its own making goes down with an evaluation.

`OnSites` opens exact counts, without noise, and where the server learns the sums, the server says which model
they are counted with. It need not be a model of the training: one that is +1 where a feature exceeds a
threshold counts those patients, by class. All sites are sent the same, so that no binding of models (A9)
stands against it.

* The question, over all sites together: **succeeds**, once for each evaluation, and for a liar as often as it
  likes. Where the clients learn the sums, each counts with its own copy of the model, and it **fails**.
* The question to one site alone, by another model than the others': fails, its counts are not in that sum.
  The weakened copy is PlainSum, where a request is bound to nothing.
* Two sums over sites that differ by one: **succeeds**, the difference is what that site counts. How many
  examples there are, and of which class, needs no second sum of one model. `federate` never asks twice for
  one model; the weakened copy is a loop that asks after every round, whether it moved the model or not.
* A site that fails does not say why. But it trains with the model that the server sent: one under which
  training diverges wherever a feature is above a threshold gets one bit of **one site**: **succeeds**.

**Partial**: totals over at least `min_contributors` sites, but for that bit. The remedies are a central
evaluation, or none where test sets are small or secret, or noise; and a site's own step, that looks at the
model before it trains.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fl_integration import FederatedRun, FederatedServer, LocalTraining, OnSites, Task, flatten
from fl_integration.loop import rounds, side_sums
from fl_integration.loop.evaluating import Evaluator
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.side_sums import Count, Head, SideSums
from protocols import IntegerSum, RoundAborted
from protocols.machine.client import Request
from protocols.masked.messages import CollectInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from protocols.plain import Collect
from tests.fl_integration.loop.stage import QUIET, seeded, train

FEATURES, BINS = 5, 4
SIZES = {"a": 9, "b": 14, "c": 20, "d": 33}
BEFORE_THE_VALUES = 32 + 4
"""The manifest's digest and the number of scales, of which there are none."""

Read = tuple[int, int]
"""Examples with a property, of the class 1 and of the class 0."""


@pytest.fixture(params=["plain", "masked"])
def name(request: Any) -> str:
    """Protocols whose server learns the sums."""
    return str(request.param)


def patients(client: str, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(ord(client))
    x = torch.randn(size, FEATURES, generator=generator)
    return [(x, (x[:, :1] + torch.randn(size, 1, generator=generator) > 0.3).float())]


HELD_OUT = {client: patients(client, size) for client, size in SIZES.items()}


def truth(feature: int, above: float, clients: Collection[str] = tuple(SIZES)) -> Read:
    """What nobody but the sites should be able to count."""
    pairs = [HELD_OUT[client][0] for client in clients]
    found = [(x[:, feature] > above, y[:, 0] == 1) for x, y in pairs]
    return sum(int((hit & one).sum()) for hit, one in found), sum(
        int((hit & ~one).sum()) for hit, one in found
    )


def question(feature: int, above: float) -> bytes:
    """The values of a model that is far above 0 where that feature is above, and far below elsewhere."""
    asking = nn.Linear(FEATURES, 1)
    with torch.no_grad():
        asking.weight.zero_()
        asking.weight[0, feature] = 1e6
        asking.bias.fill_(-above * 1e6)
    return flatten(asking.state_dict())[0].tobytes()


def read(total: IntegerSum) -> Read:
    """The uppermost bin of each class's histogram."""
    ones, zeros = total.total[3 : 3 + 2 * BINS].reshape(2, BINS)
    return int(ones[-1]), int(zeros[-1])


@dataclass
class Seen:
    """What a server sends with evaluations, and reads."""

    bodies: list[bytes] = field(default_factory=list)
    sums: list[IntegerSum] = field(default_factory=list)


def curious(
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[int, bytes], bytes] = lambda number, body: body,
    *,
    again: tuple[str, ...] = (),
) -> Seen:
    """The server sends what it likes with each evaluation; `again` is asked the same once more."""
    seen = Seen()

    class Curious(SideSums):
        def run(self, number: int, cohort: Collection[str], count: Count, *, model: bytes, head: Head) -> Any:
            sent = ask(number, model)
            for place, members in enumerate([cohort, again] if again else [cohort]):
                found = super().run(2 * number + place, members, count, model=sent, head=head)
                seen.bodies.append(sent)
                seen.sums += list(found[0].values())[:1]
            return found

    monkeypatch.setattr(rounds, "SideSums", Curious)
    return seen


def trained(name: str, *, test: dict[str, Any] | None = None, **options: Any) -> FederatedRun:
    given = {
        "local": LocalTraining(loss=binary_cross_entropy_with_logits, learning_rate=0.1, batch_size=None),
        "evaluate": OnSites(test or HELD_OUT, task=Task.BINARY, bins=BINS, max_examples=100),
        "model": seeded(lambda: nn.Linear(FEATURES, 1)),
        "watch": QUIET,
        **options,
    }
    return train(name, {client: patients(client, 16) for client in SIZES}, **given)


QUESTIONS = [(1, 0.5), (2, -1.0), (4, 1.2)]


def test_one_question_an_evaluation_over_all_sites_together_and_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = curious(monkeypatch, lambda number, body: body[:BEFORE_THE_VALUES] + question(*QUESTIONS[number]))
    run = trained(name, rounds=3)
    assert [read(each) for each in seen.sums] == [truth(*each) for each in QUESTIONS]
    assert all(report.contributors == set(SIZES) for report in run.history)  # nobody noticed
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| D17 "))
    assert Path(__file__).stem in row
    assert "**succeeds**" in row
    assert "counting oracle" in page


def test_clients_that_learn_the_sums_count_with_their_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = trained("ckks", rounds=1).history[0].evaluation
    seen = curious(monkeypatch, lambda number, body: question(*QUESTIONS[number]))
    assert trained("ckks", rounds=1).history[0].evaluation == honest
    assert [read(each) for each in seen.sums] != [truth(*QUESTIONS[0])]


# --- one site alone ---------------------------------------------------------------------------------------


class TwoFaced(InProcess):
    """The server's line to the clients: what `b` is asked with differs from what the others are."""

    def _answer(self, client: str, request: bytes) -> bytes | None:
        envelope = Envelope.decode(request)
        kind = {"Contribute": Collect, "MaskedInput": CollectInput}.get(self._names[envelope.stage // 2])
        if client == "b" and kind is not None:
            told = decode(Request, envelope.body)
            asked = decode(kind, told.body)  # type: ignore[type-var]
            model = asked.model[:BEFORE_THE_VALUES] + question(*QUESTIONS[0])
            told = replace(told, body=memoryview(encode(replace(asked, model=model))))
            request = replace(envelope, body=encode(told)).encode()
        return super()._answer(client, request)


def silent(number: int, body: bytes) -> bytes:
    """A model that nobody's patients are above."""
    return body[:BEFORE_THE_VALUES] + question(0, 1e6)


def test_one_site_alone_answers_where_requests_are_bound_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_sums, "InProcess", TwoFaced)
    seen = curious(monkeypatch, silent)
    trained("plain", rounds=1)
    assert [read(each) for each in seen.sums] == [truth(*QUESTIONS[0], clients="b")]


def test_one_site_alone_is_not_in_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A9: its masks are made under another transcript."""
    monkeypatch.setattr(side_sums, "InProcess", TwoFaced)
    seen = curious(monkeypatch, silent)
    trained("masked", rounds=1)
    (total,) = seen.sums
    assert total.contributors == set("acd")
    assert read(total) == (0, 0)


def test_too_few_sites_are_not_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = curious(monkeypatch)
    test = {**HELD_OUT, "a": [], "b": []}
    run = trained(name, rounds=1, test=test)
    assert seen.sums == []
    assert run.history[0].evaluation == {}


# --- differences of two sums ------------------------------------------------------------------------------


def test_one_model_twice_with_one_site_less_tells_that_site(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing at a client stands against a server that lies so; a minimum of all four sites would."""
    seen = curious(
        monkeypatch,
        lambda number, body: body[:BEFORE_THE_VALUES] + question(*QUESTIONS[0]),
        again=("a", "c", "d"),
    )
    trained(name, rounds=1)
    every, less = seen.sums
    assert less.contributors == set("acd")
    (one, other), (one_less, other_less) = read(every), read(less)
    assert (one - one_less, other - other_less) == truth(*QUESTIONS[0], clients="b")


class Gone(list[Any]):
    """A test set that is not there in the second evaluation."""

    asked = 0

    def __iter__(self) -> Any:
        self.asked += 1
        if self.asked == 2:
            raise OSError("the disk is away")
        return super().__iter__()


def test_a_site_that_is_missing_once_tells_its_number_of_examples_and_of_each_class(name: str) -> None:
    """To an honest server, in an honest training: these do not depend on the model."""
    run = trained(name, rounds=2, test={**HELD_OUT, "d": Gone(HELD_OUT["d"])})
    before, after = (report.evaluation["examples"] for report in run.history)
    assert before - after == SIZES["d"]


TOO_MANY_LOST = {"plain": "Contribute", "masked": "MaskedInput"}


def aborted_in_between(name: str) -> FederatedRun:
    """Round 1 has no mean; whenever evaluations are asked, `d` is missing from the second one."""
    lost = dict.fromkeys("ab", TOO_MANY_LOST[name])
    return trained(name, rounds=3, test={**HELD_OUT, "d": Gone(HELD_OUT["d"])}, drop={1: lost})


def test_a_loop_that_asks_twice_for_one_model_tells_what_a_site_counts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "asks", lambda self, history: self.is_due(history[-1].number))
    seen = curious(monkeypatch)
    run = aborted_in_between(name)
    assert run.history[1].aborted
    assert seen.bodies[0] == seen.bodies[1]
    mine = seen.sums[0].total[: 3 + 2 * BINS] - seen.sums[1].total[: 3 + 2 * BINS]
    model = seeded(lambda: nn.Linear(FEATURES, 1))
    values = torch.from_numpy(np.frombuffer(seen.bodies[0][BEFORE_THE_VALUES:], "<f4").copy())
    nn.utils.vector_to_parameters(values, model.parameters())
    counted = OnSites(HELD_OUT, task=Task.BINARY, bins=BINS).counts(model, HELD_OUT["d"])
    assert mine.tolist() == counted[: 3 + 2 * BINS].tolist()


def test_ours_never_asks_twice_for_one_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = curious(monkeypatch)
    run = aborted_in_between(name)
    assert [bool(report.aborted) for report in run.history] == [False, True, False]
    assert [report.evaluated for report in run.history] == [True, False, True]
    assert len(seen.bodies) == len(set(seen.bodies)) == 2


def test_nor_does_a_training_that_is_taken_up_again(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It stopped when the sum of counts had been opened, and its figures were not on the disk yet."""
    seen = curious(monkeypatch)

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(OnSites, "metrics", stopped)
        with pytest.raises(KeyboardInterrupt):
            trained(name, rounds=2, checkpoint=tmp_path)
    assert len(seen.sums) == 1
    run = trained(name, rounds=2, checkpoint=tmp_path)
    assert [bool(report.evaluation) for report in run.history] == [False, True]
    assert len(seen.bodies) == len(set(seen.bodies)) == 2


# --- silence ----------------------------------------------------------------------------------------------


def test_a_model_under_which_training_fails_asks_one_site_by_itself_and_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server sends it to all, and sees who does not answer; the sum need not even open."""
    data = {client: patients(client, 16)[0][0] for client in SIZES}
    true = {client for client, x in data.items() if bool((x[:, 2] > 2).any())}
    assert 1 < len(true) < len(data)
    asking = nn.Sequential(nn.Linear(FEATURES, 1), nn.ReLU(), nn.Linear(1, 1))
    model = copy.deepcopy(asking)
    with torch.no_grad():
        for parameter in asking.parameters():
            parameter.zero_()
        asking[0].weight[0, 2], asking[0].bias[0], asking[2].weight[0] = 1e30, -2e30, 1e30

    class Asking(FederatedServer):
        @property
        def body(self) -> bytes:
            body = super().body
            return body[:BEFORE_THE_VALUES] + flatten(asking.state_dict())[0].tobytes()

    monkeypatch.setattr(rounds, "FederatedServer", Asking)
    with pytest.raises(RoundAborted) as found:
        trained(name, model=model, rounds=1, evaluate=None)
    (report,) = found.value.history  # type: ignore[attr-defined]
    assert set(report.dropped) == true
    assert report.contributors == set()
