"""The fault matrix: what may go wrong at a node or on the way, and that each case ends well for the others.

Every node runs a real ClientApp, and every message goes through Flower's own bytes. Time goes on only where
the coordinator waits, so a test also says how long that was: never longer than its patience.
"""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Message
from flwr.serverapp.strategy import FedAvg

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.parcels import (
    Hello,
    Step,
    decode_head,
)
from fl_integration.flower.engine import pack, unpack
from fl_integration.site.sealed_folder import SealedFolder
from protocols import Identity, PlainSum
from secagg.errors import ParameterError
from secagg.secret import Secret
from tests.fl_integration.flower.loopback import Node
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    MASKED,
    OF_FOUR,
    PATIENCE,
    Study,
    app_of,
    by,
    context_of,
    four,
    mean_of,
    moved,
    near,
    record_of,
    steps,
    zeros,
)
from tests.fl_integration.waiting import Time

A, B, C, D = range(FIRST_NODE, FIRST_NODE + 4)
FIRST = {kind: len(kind.exchanges(first=True)) for kind in (MASKED, OF_FOUR)}


def some(exchanges: range, *quick: int) -> list[Any]:
    """All of them; those that are not named come with the slow tests."""
    return [pytest.param(each, marks=[] if each in quick else [pytest.mark.slow]) for each in exchanges]


# Who is there


def test_a_node_without_the_mod_is_sent_no_model_and_trains_nothing(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study, trained = Study(tmp_path), []

    def step(arrays: Any, message: Any, context: Any) -> Any:
        trained.append(arrays)
        return arrays, {"num-examples": 10}

    study.grid.nodes[D] = Node(app_of(step), context_of(D))
    model = np.array([0.125, -3.0, 0.7, 11.0], np.float32)
    result = study.run(arrays=record_of({"w": model}), rounds=2)
    assert np.allclose(result.arrays["w"].numpy() - model, 2 * mean_of("a", "b", "c"), atol=4e-4)
    assert trained == []
    got = [message for node, message, _ in study.grid.sent if node == D]
    assert got, "it was never greeted"
    for message in got:
        assert sorted(message.content) == ["secagg", "secagg.body"]
        assert model.tobytes() not in b"".join(
            value.data if isinstance(value, Array) else bytes(value)
            for record in message.content.values()
            for value in record.values()
        )
        assert isinstance(decode_head(unpack(message.content).head), Hello)
    assert "node 103 takes no part: " in caplog.text


def test_an_app_without_the_mod_that_answers_anything_at_all_is_no_member(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from flwr.clientapp import ClientApp

    study, app = Study(tmp_path), ClientApp()

    @app.train()
    def train(message: Message, context: Any) -> Message:
        return Message(message.content, reply_to=message)  # the greeting itself, which is a parcel

    study.grid.nodes[D] = Node(app, context_of(D))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert "node 103 takes no part: it answers a greeting with something else" in caplog.text


def test_who_is_not_in_the_roster_is_refused(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path)
    study.ids["stranger"] = Identity.generate("stranger")
    study.join("stranger", D, by(1.0))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert "the roster does not hold 'stranger' with this identity's public key" in caplog.text
    assert steps(study, D) == []


def test_who_uses_a_members_name_with_another_key_is_refused(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from protocols import Roster

    study = Study(tmp_path)
    study.ids["liar"] = Identity.generate("a")
    study.rosters["liar"] = Roster.of(study.ids["liar"], study.ids["b"], study.ids["c"])
    study.join("liar", D, by(1.0))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert "they hold different members or keys" in caplog.text
    assert steps(study, D) == []


@pytest.mark.parametrize(
    ("mod", "words"),
    [
        ({"study": "another"}, "the server's study is b'study', this site's b'another'"),
        (
            {"weighted_by_key": "patients"},
            "weights under 'num-examples', this site by weights under 'patients'",
        ),
        ({"evaluate_metrics": {"accuracy": (0.0, 1.0)}}, "the server goes by"),
    ],
)
def test_a_site_that_goes_by_other_terms_is_left_out_with_both_in_the_log(
    mod: dict[str, Any], words: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd")
    study.grid.nodes[D] = Node(app_of(by(1.0), mods=[study.mod("d", **mod)]), context_of(D))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert words in caplog.text


def test_a_site_with_another_protocol_is_left_out(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, names="abcd")
    study.protocol = PlainSum(max_weight=1000, clip=2.0)
    study.join("d", D, by(1.0))
    study.protocol = PlainSum(max_weight=1000)
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert "the server goes by train: PlainSum(" in caplog.text


def test_a_late_joiner_trains_from_the_next_round_on(tmp_path: Any) -> None:
    study = Study(tmp_path, names="abcd", protocol=OF_FOUR)
    study.node("d").connected = False
    rounds = []

    class Late(FedAvg):
        """The fourth site comes after the first round."""

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            study.node("d").connected = server_round > 1
            messages = super().configure_train(server_round, arrays, config, grid)
            rounds.append(len(messages))
            return messages

    result = study.run(Late(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3), rounds=2)
    assert rounds == [3, 4]
    assert moved(result) == near(mean_of("a", "b", "c") + mean_of("a", "b", "c", "d"))


def test_a_round_waits_for_the_smallest_cohort_and_not_for_ever(tmp_path: Any, time: Time) -> None:
    study = Study(tmp_path, protocol=MASKED)
    study.node("c").connected = False
    # As few as Flower's defaults ask for: two, who are no cohort.
    result = study.run(FedAvg(fraction_evaluate=0.0), rounds=2)
    assert moved(result) == 0.0
    assert time.now <= 2 * (PATIENCE.connect + PATIENCE.last_look)
    assert not [message for _, message, _ in study.grid.sent if "arrays" in message.content]


def test_whoever_went_away_since_the_strategy_asked_costs_that_round(tmp_path: Any) -> None:
    study = Study(tmp_path)

    class Unlucky(FedAvg):
        """All sites leave behind the first look, and come back for the second round."""

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            for node in study.grid.nodes.values():
                node.connected = True
            messages = super().configure_train(server_round, arrays, config, grid)
            for node in study.grid.nodes.values():
                node.connected = server_round > 1
            return messages

    result = study.run(Unlucky(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3), rounds=2)
    assert moved(result) == near(mean_of("a", "b", "c"))


# Who dies


@pytest.mark.parametrize("exchange", some(range(FIRST[MASKED]), 2))
@pytest.mark.parametrize("fault", ["deaf", "mute"])
def test_of_three_all_are_needed_and_who_died_is_in_the_next_round(
    fault: str, exchange: int, tmp_path: Any, time: Time
) -> None:
    study = Study(tmp_path, protocol=MASKED)
    # The first message is the greeting; the exchanges of the first round follow.
    setattr(study.node("c"), fault, lambda nth: nth == 1 + exchange)
    result = study.run(rounds=2)
    assert moved(result) == near(mean_of("a", "b", "c")), "one round was aborted, and one was not"
    assert time.now <= 3600 + 2 * PATIENCE.exchange


@pytest.mark.parametrize("exchange", some(range(FIRST[OF_FOUR]), OF_FOUR.suite.collecting))
@pytest.mark.parametrize("fault", ["deaf", "mute"])
def test_of_four_one_may_die_in_any_exchange(fault: str, exchange: int, tmp_path: Any, time: Time) -> None:
    study = Study(tmp_path, names="abcd", protocol=OF_FOUR)
    setattr(study.node("d"), fault, lambda nth: nth == 1 + exchange)
    result = study.run(four(), rounds=2)
    without, all_of_them = mean_of("a", "b", "c"), mean_of("a", "b", "c", "d")
    # From the collecting exchange on its vector is in the sum.
    first = all_of_them if exchange > OF_FOUR.suite.collecting else without
    assert moved(result) == near(first + all_of_them)


def test_a_training_that_hangs_is_waited_for_as_long_as_the_round_has_and_no_longer(
    tmp_path: Any, time: Time
) -> None:
    study = Study(tmp_path, names="abcd", protocol=OF_FOUR)
    study.node("d").mute = lambda nth: nth == 1 + OF_FOUR.suite.collecting
    secure = study.secure(four())
    four().start(grid=secure, initial_arrays=zeros(), num_rounds=1, timeout=100.0)
    assert 50.0 < time.now <= 100.0 + PATIENCE.exchange


def test_a_node_that_hears_nothing_of_the_greeting_is_not_waited_for_twice(tmp_path: Any, time: Time) -> None:
    study = Study(tmp_path)
    study.grid.nodes[D] = Node(app_of(by(1.0)), context_of(D), deaf=lambda nth: True)
    assert moved(study.run(rounds=3)) == near(3 * mean_of("a", "b", "c"))
    assert time.now <= PATIENCE.hello + PATIENCE.last_look


def test_a_node_whose_answers_are_errors_of_the_engine_is_lost_in_that_round(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from flwr.app import Error

    study, count = Study(tmp_path, names="abcd", protocol=OF_FOUR), []

    def forge(node: int, answer: Message) -> Message:
        count.append(node)
        if node == D and count.count(D) == 2:
            return Message(Error(3, "the node\nhas\x1b[2J gone"), reply_to=answer)
        return answer

    study.grid.forge = forge
    told: list[str] = []

    class Told(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            told.extend(each.error.reason for each in replies if each.has_error())
            return super().aggregate_train(server_round, replies)

    strategy = Told(fraction_evaluate=0.0, min_train_nodes=4, min_available_nodes=4)
    assert moved(study.run(strategy, mean_only=(Told,))) == near(mean_of("a", "b", "c"))
    assert told == ["the engine says: the node has [2J gone"]


# Who says what is not so


def test_two_nodes_with_one_identity_the_first_keeps_it(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path)
    study.join("a", D, by(1.0)).connected = False

    class Second(FedAvg):
        """The other node comes when the first is known."""

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            study.grid.nodes[D].connected = server_round > 1
            return super().configure_train(server_round, arrays, config, grid)

    result = study.run(Second(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3), rounds=2)
    assert moved(result) == near(2 * mean_of("a", "b", "c"))
    assert "it proves to be 'a', and so does another node that is there and answers" in caplog.text
    assert steps(study, D) == []


def test_of_two_nodes_with_one_identity_that_come_at_once_one_trains(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path)
    study.join("a", D, by(0.1, 10))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert "it proves to be 'a', and so does another node that is there and answers" in caplog.text
    assert sorted(bool(steps(study, node)) for node in (A, D)) == [False, True]


def test_a_site_that_comes_back_as_another_node_goes_on(tmp_path: Any) -> None:
    study = Study(tmp_path, protocol=MASKED)

    class Restarted(FedAvg):
        """Between two rounds the SuperNode of `a` is restarted: a new node id, and an empty context."""

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            if server_round == 2:
                del study.grid.nodes[A]
                study.join("a", D, by(0.1, 10))
            return super().configure_train(server_round, arrays, config, grid)

    result = study.run(Restarted(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3), rounds=2)
    assert moved(result) == near(2 * mean_of("a", "b", "c"))
    # It had its state: the second round needed no new keys.
    assert len(steps(study, D)) == len(MASKED.exchanges(first=False))


def test_a_site_that_comes_back_while_its_old_node_still_counts_as_there_takes_over(tmp_path: Any) -> None:
    study = Study(tmp_path, protocol=MASKED)

    class Restarted(FedAvg):
        """The old node is dead, and the link has not noticed."""

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            if server_round == 2:
                study.node("a").deaf = lambda nth: True
                study.join("a", D, by(0.1, 10))
            return super().configure_train(server_round, arrays, config, grid)

    result = study.run(Restarted(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3), rounds=4)
    # Round 2 asks the old node in vain, and the new one is asked again once that is known.
    assert moved(result) >= 3 * mean_of("a", "b", "c") - 4e-4


@pytest.mark.parametrize("what", ["session", "node", "challenge"])
def test_a_recorded_welcome_does_not_let_its_bearer_in(
    what: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study, recorded = Study(tmp_path / "sites", names="abcd"), []

    def record(node: int, answer: Message) -> Message:
        if node == A:
            recorded.append(unpack(answer.content))
        return answer

    study.grid.forge = record
    state = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    study.run(four(), **state)
    welcome, *_ = recorded
    liar = D + 1 if what == "node" else A
    del study.grid.nodes[A]
    study.grid.nodes[liar] = Node(app_of(by(1.0)), context_of(liar))
    study.grid.sent.clear()
    study.grid.forge = lambda node, answer: (
        Message(pack(welcome), reply_to=answer) if node == liar else answer
    )
    # A server that restarts over its state is in the same session, and greets with a new challenge.
    assert moved(study.run(**({} if what == "session" else state))) == near(mean_of("b", "c", "d"))
    assert f"node {liar} takes no part" in caplog.text
    assert "signature" in caplog.text
    assert steps(study, liar) == []


# The server


class Dies(Exception):
    """The server's process ends here."""


@pytest.mark.parametrize("after", some(range(1, 1 + 3 * FIRST[MASKED]), 1, 8))
def test_a_server_that_dies_in_mid_round_goes_on_in_the_same_session(after: int, tmp_path: Any) -> None:
    study, seen = Study(tmp_path / "sites", protocol=MASKED), []

    def dying(node: int, answer: Message) -> Message:
        seen.append(node)
        if len(seen) == 3 + after:  # behind the greetings
            raise Dies
        return answer

    state = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    study.grid.forge = dying
    with pytest.raises(Dies):
        study.run(**state)
    study.grid.forge = lambda node, answer: answer
    session = _session(study)
    result = study.run(rounds=2, **state)
    assert _session(study) == session
    assert moved(result) == near(2 * mean_of("a", "b", "c"))


def test_a_server_that_lost_its_state_opens_a_new_session_that_the_sites_admit(tmp_path: Any) -> None:
    study = Study(tmp_path, protocol=MASKED)
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    session = _session(study)
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert _session(study) != session


def test_a_state_of_the_server_under_another_key_is_refused(tmp_path: Any) -> None:
    from secagg.errors import VerificationError

    study = Study(tmp_path / "sites")
    study.run(state_dir=tmp_path / "server", state_key=Secret(bytes(32)))
    with pytest.raises(VerificationError):
        study.run(state_dir=tmp_path / "server", state_key=Secret(bytes([1] * 32)))


def test_a_servers_state_of_another_release_is_said_to_be_one(tmp_path: Any) -> None:
    study = Study(tmp_path / "sites")
    key = Secret(bytes(32))
    SealedFolder(tmp_path / "server", key=key).write("server", b"of a release with other fields")
    with pytest.raises(ParameterError, match="another release's; move its folder away"):
        study.run(state_dir=tmp_path / "server", state_key=key)


def _session(study: Study) -> Any:
    """The place of the last step that was sent."""
    heads = (decode_head(unpack(message.content).head) for _, message, _ in study.grid.sent)
    return [head.place for head in heads if isinstance(head, Step)][-1]


def test_patience_is_what_is_waited(tmp_path: Any, time: Time) -> None:
    study = Study(tmp_path)
    study.node("c").connected = False
    study.run(FedAvg(fraction_evaluate=0.0), patience=Patience(connect=7.0, last_look=0.5))
    assert 7.0 <= time.now <= 8.0
