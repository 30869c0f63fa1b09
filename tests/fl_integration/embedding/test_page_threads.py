"""The page's example over queues: sites that fail, that are late, that are there again."""

from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
import pytest

from fl_integration.embedding.examples.threads import answer_all, over_queues
from protocols import Adversary, Identity, MaskedSum, Requirements, Roster, Round, RoundAborted, run_round

NAMES = ("basel", "bern", "geneva", "zurich")
ONE_MAY_BE_LOST = Requirements(adversary=Adversary.MALICIOUS, dropout_fraction=0.25)
PROTOCOL = MaskedSum(max_clients=4, max_weight=1000, requirements=ONE_MAY_BE_LOST)


class Stage:
    """Four sites in threads; `train[name]` is what each does when it is asked."""

    def __init__(self) -> None:
        identities = [Identity.generate(name) for name in NAMES]
        around = {"roster": Roster.of(*identities), "session": bytes(16)}
        self.server = PROTOCOL.server(**around)
        self.inboxes = {name: SimpleQueue() for name in NAMES}
        self.train = dict.fromkeys(NAMES, lambda asked: (np.full(asked.length, 0.5), 100))
        self.threads = [
            Thread(
                target=answer_all,
                args=[
                    PROTOCOL.client(identity=each, **around),
                    each.client,
                    lambda asked, name=each.client: self.train[name](asked),
                    self.inboxes[each.client],
                ],
                daemon=True,
            )
            for each in identities
        ]

    def __enter__(self):
        for each in self.threads:
            each.start()
        return self

    def __exit__(self, *_):
        for inbox in self.inboxes.values():
            inbox.put(None)
        for each in self.threads:
            each.join(30)
        assert not any(each.is_alive() for each in self.threads)

    def round(self, number, *, deadline=60.0):
        return run_round(self.server, Round(number, NAMES, 4), over_queues(self.inboxes, deadline=deadline))


def test_a_site_that_fails_sits_one_round_out_and_nobody_waits_for_it(caplog) -> None:
    with Stage() as stage:
        stage.train["bern"] = lambda asked: ({}[asked.round], 1)
        assert stage.round(0, deadline=3600).contributors == set(NAMES) - {"bern"}
        stage.train["bern"] = stage.train["basel"]
        assert stage.round(1).contributors == set(NAMES)
    assert "bern sits the round out" in caplog.text


def test_a_late_site_is_left_out_and_its_answer_disturbs_no_later_round(caplog) -> None:
    go = Event()

    def slow(asked):
        assert go.wait(30)
        return np.full(asked.length, 0.5), 100

    with Stage() as stage:
        stage.train["bern"] = slow
        assert stage.round(0, deadline=1.0).contributors == set(NAMES) - {"bern"}
        go.set()
        outcome = stage.round(1)
        assert outcome.contributors == set(NAMES)
        assert not outcome.dropped
        assert "sits the round out" not in caplog.text  # it was late, and nobody waited until it gave up
        assert np.allclose(outcome.total.mean, 0.5, atol=1e-4)


def test_too_few_end_the_round_and_not_the_sites() -> None:
    with Stage() as stage:
        stage.train |= dict.fromkeys(("basel", "bern"), lambda asked: (np.full(3, 0.5), 1))  # too short
        with pytest.raises(RoundAborted, match="did not answer in MaskedInput"):
            stage.round(0)
        stage.train |= dict.fromkeys(("basel", "bern"), stage.train["zurich"])
        assert stage.round(1).contributors == set(NAMES)
