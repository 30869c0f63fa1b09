"""A change of roster between two rounds: a new session, which a leaver is no part of and a joiner trains in.

Three members of whom one may be corrupt need all three signatures (quorum(3, 1) is 3), four need three.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from fl_integration.embedding.parcels import Parcel, Refused, Step, decode_head, encode_head
from fl_integration.flower.engine import pack, unpack
from protocols import Identity, MaskedSum, Roster
from protocols.membership import RosterVersion
from secagg.errors import ParameterError
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    MASKED,
    PLAIN,
    Study,
    by,
    mean_of,
    moved,
    near,
    steps,
)

A, B, C, D = range(FIRST_NODE, FIRST_NODE + 4)


class Changing(FedAvg):
    """Asks for all members that are there; what happens before a round is said by number."""

    def __init__(self, **before: Any) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
        self.before = before
        self.cohorts: list[str] = []

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
        self.before.get(f"round_{server_round}", lambda: None)()
        messages = list(super().configure_train(server_round, arrays, config, grid))
        nodes = sorted(message.metadata.dst_node_id for message in messages)
        self.cohorts.append("".join("abcd"[node - FIRST_NODE] for node in nodes))
        return messages


class Consortium:
    """Four sites, and the versions of their roster."""

    def __init__(self, folder: Path, *, first: str, protocol: Any = PLAIN) -> None:
        self.study = Study(folder, names="abcd", protocol=protocol)
        self.versions = [RosterVersion(self.of(first))]
        self.held: dict[str, RosterVersion] = dict.fromkeys("abcd", self.versions[0])
        for name in "abcd":
            if name not in first:
                self.leave(name)
            else:
                self.study.rosters[name] = self.versions[0]

    def of(self, names: str) -> Roster:
        return Roster.of(*(self.study.ids[name] for name in names))

    def change(self, names: str, *, signed: str, held_by: str = "abcd") -> None:
        """The next version, signed and installed at these sites and at the server."""
        version = self.versions[-1].successor(self.of(names))
        for name in signed:
            version = version.signed(self.study.ids[name])
        self.versions.append(version)
        for name in held_by:
            if name in names:
                self.study.rosters[name] = version
                self.study.node(name).connected = True

    def leave(self, name: str) -> None:
        self.study.node(name).connected = False

    def run(self, strategy: Changing, rounds: int) -> Any:
        return self.study.run(strategy, rounds=rounds, roster=lambda: self.versions[-1])


def places(study: Study, node: int) -> list[Any]:
    """The sessions of the steps that a node was sent, each once, in order."""
    heads = [decode_head(unpack(message.content).head) for message in steps(study, node)]
    return list(dict.fromkeys(head.place for head in heads if isinstance(head, Step)))


def test_a_joiner_trains_in_the_next_round(tmp_path: Path) -> None:
    all_four = Consortium(tmp_path, first="abc")

    class Whole(Changing):
        """Asks for as many as the roster has."""

        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            self.min_train_nodes = 4 if server_round > 1 else 3
            return super().configure_train(server_round, arrays, config, grid)

    strategy = Whole(round_2=lambda: all_four.change("abcd", signed="abc"))
    result = all_four.run(strategy, rounds=2)
    assert strategy.cohorts == ["abc", "abcd"]
    assert len(places(all_four.study, A)) == 2, "another version is another session"
    assert moved(result) == near(mean_of(*"abc") + mean_of(*"abcd"))


def test_a_leaver_is_asked_no_more_and_opens_nothing(tmp_path: Path) -> None:
    four = Consortium(tmp_path, first="abcd", protocol=MASKED)
    strategy = Changing(round_2=lambda: four.change("abc", signed="abc"))
    strategy.min_train_nodes = 4

    def smaller() -> None:
        four.change("abc", signed="abc")
        strategy.min_train_nodes = 3

    strategy.before = {"round_2": smaller}
    result = four.run(strategy, rounds=2)
    assert strategy.cohorts == ["abcd", "abc"]
    assert moved(result) == near(mean_of(*"abcd") + mean_of(*"abc"))
    (old,) = places(four.study, D)
    assert old.version == 1
    # What was sent to others in the new session says nothing to whoever left, nor may it answer for a member.
    later = [
        message for message in steps(four.study, A) if decode_head(unpack(message.content).head).place != old
    ]
    heard = len(four.study.heard(D))
    for message in later:
        from flwr.app import Message

        parcel = unpack(message.content)
        four.study.grid.push_messages([Message(pack(parcel), dst_node_id=D, message_type="train")])
    answers = [decode_head(unpack(each.content).head) for each in four.study.heard(D)[heard:]]
    assert len(answers) == len(later) > 0
    assert all(isinstance(each, Refused) for each in answers)


def test_a_leaver_that_goes_on_under_its_old_roster_is_told_both_fingerprints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = Consortium(tmp_path, first="abcd")
    strategy = Changing()

    def smaller() -> None:
        four.change("abc", signed="abc")
        strategy.min_train_nodes = 3

    strategy.min_train_nodes, strategy.before = 4, {"round_2": smaller}
    four.run(strategy, rounds=2)
    first, second = (version.fingerprint for version in four.versions)
    assert (
        f"the server's roster is version 2 ({second}), this site's version 1 ({first}); this site's is the "
        "older one: install the new roster here"
    ) in caplog.text


def test_a_site_that_installed_the_next_roster_first_refuses_the_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = Consortium(tmp_path, first="abcd")
    version = four.versions[0].successor(four.of("abc"))
    for name in "abc":
        version = version.signed(four.study.ids[name])
    four.study.rosters["a"] = version
    secure = four.study.secure(Changing(), roster=four.versions[0])
    assert sorted(secure.get_node_ids()) == [B, C, D]
    assert "the server's is an older one" in caplog.text
    assert version.fingerprint in caplog.text
    assert four.versions[0].fingerprint in caplog.text


@pytest.mark.parametrize(("signed", "admitted"), [("", False), ("ab", False), ("abc", True), ("abd", True)])
def test_sites_take_a_roster_that_a_quorum_of_the_one_before_signed(
    signed: str, admitted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Of four, of whom one may be corrupt, three: ⌊(4 + 1)/2⌋ + 1.
    four = Consortium(tmp_path, first="abcd")
    strategy = Changing()
    strategy.min_train_nodes = 4
    secure = four.study.secure(strategy, roster=lambda: four.versions[-1])
    assert len(list(secure.get_node_ids())) == 4
    four.change("abc", signed=signed)
    assert len(list(secure.get_node_ids())) == (3 if admitted else 0)
    if not admitted:
        assert f"{len(signed)} of the 4 members of version 1 signed it" in caplog.text
        assert "3 are needed" in caplog.text


def test_strangers_and_newcomers_signatures_do_not_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = Consortium(tmp_path, first="abc")
    secure = four.study.secure(Changing(), roster=lambda: four.versions[-1])
    assert len(list(secure.get_node_ids())) == 3
    four.study.ids["x"] = Identity.generate("a")  # a member's name with another key
    four.change("abcd", signed="abdx")
    # The newcomer knows of no version before, and takes the roster as its operator agreed to it.
    assert list(secure.get_node_ids()) == [D]
    assert "2 of the 3 members of version 1 signed it" in caplog.text


def test_a_site_that_missed_a_version_takes_the_line_of_them(tmp_path: Path) -> None:
    four = Consortium(tmp_path, first="abcd")
    secure = four.study.secure(Changing(), roster=lambda: four.versions[-1])
    assert len(list(secure.get_node_ids())) == 4
    four.change("abc", signed="abcd", held_by="")
    four.change("abcd", signed="abc", held_by="abcd")
    assert A not in set(secure.get_node_ids())
    four.study.enrols["earlier"] = tuple(four.versions[1:2])
    secure = four.study.secure(Changing(), roster=four.versions[-1])
    assert sorted(secure.get_node_ids()) == [A, B, C, D]


def test_a_server_whose_roster_goes_back_is_stopped(tmp_path: Path) -> None:
    four = Consortium(tmp_path, first="abcd")
    four.change("abc", signed="abcd")
    held = [four.versions[1]]
    secure = four.study.secure(Changing(), roster=lambda: held[0])
    held[0] = four.versions[0]
    with pytest.raises(ParameterError, match="versions go up") as caught:
        secure.get_node_ids()
    for version in four.versions:
        assert version.fingerprint in str(caught.value)


def test_another_roster_of_the_same_version_is_refused_by_the_sites(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = Consortium(tmp_path, first="abcd")
    liar = RosterVersion(Roster.of(*(four.study.ids[each] for each in "abc"), Identity.generate("d")))
    secure = four.study.secure(Changing(), roster=liar)
    assert list(secure.get_node_ids()) == []
    assert "they hold different members or keys: compare them line by line" in caplog.text


def test_the_old_session_is_closed_for_good(tmp_path: Path) -> None:
    four = Consortium(tmp_path, first="abcd")
    strategy = Changing()

    def smaller() -> None:
        four.change("abc", signed="abc")
        strategy.min_train_nodes = 3

    strategy.min_train_nodes, strategy.before = 4, {"round_2": smaller}
    four.run(strategy, rounds=2)
    four.study.rosters["a"] = four.versions[0]  # its operator put the old roster back
    from flwr.app import Message

    first = steps(four.study, A)[0]
    four.study.grid.push_messages([Message(first.content, dst_node_id=A, message_type="train")])
    head = decode_head(unpack(four.study.heard(A)[-1].content).head)
    assert isinstance(head, Refused)
    assert "it does not go back to version 1" in head.reason


def test_sessions_are_counted_for_each_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    four = Consortium(tmp_path, first="abcd")
    four.study.enrols["max_sessions"] = 1
    assert len(list(four.study.secure(Changing(), roster=four.versions[0]).get_node_ids())) == 4
    assert list(four.study.secure(Changing(), roster=four.versions[0]).get_node_ids()) == []
    assert "this site admits 1: agree on a next version, or raise max_sessions" in caplog.text
    four.change("abc", signed="abc")
    assert len(list(four.study.secure(Changing(), roster=four.versions[1]).get_node_ids())) == 3


def test_an_epoch_of_tomorrow_is_admitted_and_one_of_next_week_locks_nobody_out(tmp_path: Path) -> None:
    from dataclasses import replace

    from flwr.app import Message

    four = Consortium(tmp_path, first="abcd")
    four.study.secure(Changing(), roster=four.versions[0]).get_node_ids()
    hello = decode_head(unpack(four.study.grid.sent[0][1].content).head)
    node = four.study.grid.sent[0][0]
    far = replace(hello.place, epoch=hello.place.epoch + 7 * 24 * 3600 * 1000)
    content = pack(Parcel(encode_head(replace(hello, place=far))))
    four.study.grid.push_messages([Message(content, dst_node_id=node, message_type="train")])
    head = decode_head(unpack(four.study.heard(node)[-1].content).head)
    assert isinstance(head, Refused)
    assert "more than a day ahead of this site's clock" in head.reason
    assert len(list(four.study.secure(Changing(), roster=four.versions[0]).get_node_ids())) == 4


def test_cohorts_before_and_behind_a_change_are_a_pair_that_can_be_subtracted(tmp_path: Path) -> None:
    # A10: what THREAT_MODEL says is not protected. Two sums of one model, of abcd and of abc, tell the update
    # of d, though each of them is a sum of three or more.
    four = Consortium(tmp_path, first="abcd", protocol=MaskedSum(max_weight=1))
    steps_of = {"a": 0.1, "b": -0.2, "c": 0.3, "d": 0.4375}
    for name, step in steps_of.items():
        four.study.join(name, FIRST_NODE + "abcd".index(name), by(step, 1))
    strategy = Changing()
    strategy.min_train_nodes = 4
    before = moved(four.run(strategy, rounds=1))
    four.change("abc", signed="abc")
    after = moved(four.run(Changing(), rounds=1))
    assert 4 * before - 3 * after == pytest.approx(steps_of["d"], abs=1e-3)


def test_what_is_logged_is_a_line_a_round_and_no_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = Consortium(tmp_path, first="abcd")
    strategy = Changing()
    strategy.min_train_nodes = 4
    with caplog.at_level(logging.INFO, "secagg"):
        four.run(strategy, rounds=2)
    lines = [record.getMessage() for record in caplog.records if record.name == "secagg"]
    assert [line for line in lines if line.startswith("train: ")] == 2 * ["train: the sum of 4 of 4"]
    assert not [line for line in lines if "0.1" in line]
