"""The fault matrix: what may go wrong at a site or on the way, and that each case ends well for the others.

Every call goes through NVFlare's own bytes and its own dispatch. Time goes on only where the coordinator
waits, so a test also says how long that was: never longer than its patience.
"""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvflare.collab import collab

from fl_integration.embedding.member import SITS_OUT, UNABLE
from fl_integration.embedding.parcels import Hello, Refused, decode_head
from fl_integration.nvflare.carrier import unpacked
from protocols import CkksSum, Identity, PlainSum, Roster
from protocols.membership import RosterVersion
from tests.fl_integration.nvflare.stage import (
    MASKED,
    OF_FOUR,
    PATIENCE,
    PLAIN,
    Study,
    by,
    mean_of,
    moved,
    near,
    zeros,
)
from tests.fl_integration.waiting import Time

SECRET = "/home/ward/patients.csv: row 17 has no age"


def fails(model: Any, config: Any) -> Any:
    raise ValueError(SECRET)


def leaves(model: Any, config: Any) -> Any:
    raise SystemExit(SECRET)


def some(exchanges: int, *quick: int) -> list[Any]:
    """All of them; those that are not named come with the slow tests."""
    return [
        pytest.param(each, marks=[] if each in quick else [pytest.mark.slow]) for each in range(exchanges)
    ]


def left_the_site(study: Study, name: str) -> str:
    """All that a site answered, as text: heads and bodies, and what NVFlare itself would say."""
    return repr(study.job.heard(name))


# A site's own functions


@pytest.mark.parametrize("train", [fails, leaves])
def test_an_exception_stays_at_its_site_and_keeps_it_alone_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, train: Any
) -> None:
    study = Study(tmp_path)
    study.names = "abcd"
    study.ids["d"] = Identity.generate("d")
    study.roster = Roster.of(*study.ids.values())
    for place, name in enumerate("abc"):
        study.join(name, by(0.1 * (place + 1), 10 * (place + 1)))
    study.join("d", train)
    outcome = study.train()
    assert outcome.lost == {"d": SITS_OUT}
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    for words in ("patients", "row 17", "ValueError", "Traceback", "SystemExit"):
        assert words not in left_the_site(study, "d")
    assert "row 17" in caplog.text or train is leaves
    study.join("d", by(0.4, 40))  # the next round has it
    assert moved(study.train()) == near(mean_of("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "train answers with a pair"),
        ({"w": np.zeros(8)}, "train answers with a pair"),
        (({"w": [0.0] * 8}, {"num-examples": 1}), "train answers with a list as 'w'"),
        (({"v": np.zeros(8)}, {"num-examples": 1}), "only one of the server and the app has an array 'v'"),
        (({"w": np.zeros(9)}, {"num-examples": 1}), "sits round 0 out"),
        (({"w": np.full(8, np.nan)}, {"num-examples": 1}), "sits round 0 out"),
        ((zeros(), {}), "no positive integer under 'num-examples'"),
        ((zeros(), {"num-examples": 0}), "no positive integer under 'num-examples'"),
        ((zeros(), {"num-examples": 1.5}), "no positive integer under 'num-examples'"),
        ((zeros(), {"num-examples": "10"}), "no positive integer under 'num-examples'"),
        ((zeros(), 10), "metrics are a int; they are numbers by name"),
        ((zeros(), {"num-examples": 1001}), "sits round 0 out"),
    ],
)
def test_an_answer_that_is_none_keeps_its_site_out_and_says_why_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: Any, words: str
) -> None:
    study = Study(tmp_path, names="abcd")
    study.join("d", lambda model, config: answer)
    outcome = study.train()
    assert outcome.lost == {"d": SITS_OUT}
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    assert words in caplog.text


def test_a_metric_that_is_summed_and_missing_keeps_its_site_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, protocol=PlainSum(max_weight=1000, metrics={"loss": (0.0, 1.0)}), names="abcd")
    for name in "abc":
        study.join(name, by(0.1, loss=0.5))
    outcome = study.train()
    assert outcome.lost == {"d": SITS_OUT}
    assert "the protocol sums the metric 'loss', and the app answers with ['num-examples']" in caplog.text


# Who is there


def test_a_site_that_publishes_no_secure_aggregation_is_sent_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study, trained = Study(tmp_path), []

    def train(model: Any) -> None:
        trained.append(model)

    open_door = SimpleNamespace(train=collab.publish(train))
    study.job.join("d", open_door)
    outcome = study.train()
    assert outcome.lost == {"d": "this node is no member"}
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    assert not trained
    assert not study.job.heard("d")
    assert "'d' takes no part: no answer to the greeting: it publishes no secure_aggregation" in caplog.text


def test_who_is_not_in_the_roster_is_sent_no_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path)
    study.ids["d"] = Identity.generate("d")
    study.join("d", by(1.0))
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert study.steps("d") == []
    # Its own side knows first: what its operator was told stays there.
    assert "the roster does not hold 'd' with this identity's public key" in caplog.text
    assert f"node 'd' takes no part: {UNABLE}" in caplog.text


def test_who_has_a_members_name_and_another_key_is_no_member(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd")
    study.ids["d"] = Identity.generate("d")  # behind the roster's back
    study.rosters["d"] = Roster.of(*study.ids.values())
    outcome = study.train()
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    assert study.steps("d") == []
    assert "the server's roster is version 1" in caplog.text


def test_at_a_site_only_the_member_of_its_name_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member's key at another site: the site's own check is left out, as a liar would."""
    monkeypatch.setattr("fl_integration.nvflare.site.check_names", lambda here, client: None)
    study = Study(tmp_path)
    study.job.join("x", SimpleNamespace(secure=study.door(by(9.0), enrol=lambda site: study.enrol("a"))))
    del study.job.sites["a"]
    outcome = study.train()
    assert study.steps("x") == []
    assert set(outcome.lost) == {"b", "c", "x"}
    assert "node 'x' takes no part: it proves to be 'a'; at 'x' only the member of that name" in caplog.text


def test_a_site_whose_identity_has_another_name_refuses_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path)
    study.job.join("x", SimpleNamespace(secure=study.door(by(9.0), enrol=lambda site: study.enrol("a"))))
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert "NVFlare's name of this site is 'x', its identity's is 'a'; a site takes part under" in caplog.text


def test_a_stale_roster_is_told_to_both_sides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, names="abcd")
    first = RosterVersion(study.roster)
    study.rosters["d"] = first
    second = RosterVersion(Roster.of(*(study.ids[name] for name in "abc")), version=2, previous=first.digest)
    for name in "abc":
        second = second.signed(study.ids[name])
    study.rosters |= dict.fromkeys("abc", second)
    outcome = study.train(roster=second)
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    assert "this site's is the older one: install the new roster here" in caplog.text
    assert first.fingerprint in caplog.text
    assert second.fingerprint in caplog.text


def test_another_site_of_the_job_is_not_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, names="abcd")
    study.job.sites["d"].caller = "a"
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert "'a' calls; a site answers the server of its job alone" in caplog.text
    assert len(study.steps("d")) == 0


def test_a_greeting_for_another_site_is_not_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that hands a's challenge to d would have d's signature under a's node."""
    study, heard = Study(tmp_path, names="abcd"), {}

    def tamper(site: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if isinstance(decode_head(arguments["secagg_head"]), Hello):
            heard[site] = arguments["secagg_head"]
            if site == "d":
                return {**arguments, "secagg_head": heard["a"]}
        return arguments

    study.job.tamper = tamper
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert "a greeting for another site came to 'd'" in caplog.text


# In the clear


def test_an_app_that_publishes_its_training_beside_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd")
    leaky = SimpleNamespace(secure=study.door(by(0.4)), train=collab.publish(lambda model: model))
    study.job.join("d", leaky)
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert "this app publishes 'train' beside its secure aggregation" in caplog.text
    named = SimpleNamespace(
        secure=study.door(by(0.4, 40), in_the_clear=("train",)), train=collab.publish(lambda model: model)
    )
    study.job.join("d", named)
    assert moved(study.train()) == near(mean_of("a", "b", "c", "d"))


# The way


@pytest.mark.parametrize("what", ["deaf", "mute"])
@pytest.mark.parametrize("exchange", some(len(OF_FOUR.exchanges(first=True)), 2))
def test_a_site_that_is_lost_in_any_exchange_costs_nobody_else_the_round(
    tmp_path: Path, time: Time, what: str, exchange: int
) -> None:
    study = Study(tmp_path, protocol=OF_FOUR, names="abcd")
    setattr(study.job.sites["d"], what, lambda nth: nth == 1 + exchange)  # the greeting comes before
    with study.secure() as secure:
        outcome = secure.train(zeros(), seconds=20.0)
        assert not outcome.aborted
        assert set("abc") <= set(outcome.contributors)
        assert moved(outcome) == near(mean_of(*outcome.contributors))
        assert {*outcome.lost} | {*outcome.contributors} == set("abcd")
        assert set(outcome.lost.values()) <= {"no answer in time"}
        assert time.now < 20.0 + 5 * PATIENCE.exchange
        again = secure.train(zeros(), seconds=20.0)
    assert again.contributors == ("a", "b", "c", "d")


def test_a_round_among_three_that_loses_one_is_aborted_and_leaves_the_model(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED)
    study.job.sites["c"].mute = lambda nth: nth == 1
    with study.secure() as secure:
        outcome = secure.train({"w": np.full(8, 0.5, np.float32)})
        assert outcome.aborted
        assert (outcome.weight, dict(outcome.metrics), outcome.contributors) == (None, {}, ())
        assert set(outcome.lost) == set("abc")
        assert outcome.lost["c"] == "no answer in time"
        np.testing.assert_array_equal(outcome.model["w"], np.full(8, 0.5, np.float32))
        assert secure.train(zeros()).contributors == ("a", "b", "c")


def test_a_training_that_hangs_is_waited_for_as_long_as_the_round_has(tmp_path: Path, time: Time) -> None:
    study = Study(tmp_path, names="abcd")
    study.job.sites["d"].mute = lambda nth: nth == 1
    with study.secure() as secure:
        before = time.now
        outcome = secure.train(zeros(), seconds=100.0)
    assert outcome.lost == {"d": "no answer in time"}
    assert 99 <= time.now - before <= 101


def test_what_nvflare_says_of_a_call_is_the_reason(tmp_path: Path) -> None:
    study = Study(tmp_path, names="abcd")
    study.job.sites["d"].error = lambda nth: RuntimeError("cell\nis gone") if nth == 1 else None
    outcome = study.train()
    assert outcome.lost == {"d": "the engine says: cell is gone"}
    assert moved(outcome) == near(mean_of("a", "b", "c"))


@pytest.mark.parametrize(
    "forged",
    [
        None,
        "yes",
        {},
        {"head": b"", "body": b""},
        {"head": b"x", "body": b"", "more": 1},
        {"head": "x", "body": b""},
        {"head": b"SAGP\x01\x01", "body": bytearray(3)},
        [b"", b""],
    ],
    ids=repr,
)
@pytest.mark.parametrize("nth", [0, 1])
def test_an_answer_of_another_kind_costs_nobody_else_the_round(tmp_path: Path, forged: Any, nth: int) -> None:
    study, count = Study(tmp_path, names="abcd"), iter(range(99))

    def forge(site: str, payload: Any) -> Any:
        return {"result": forged} if site == "d" and next(count) == nth else payload

    study.job.forge = forge
    outcome = study.train()
    assert moved(outcome) == near(mean_of("a", "b", "c"))
    assert set(outcome.lost) == {"d"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"secagg_head": "text"},
        {"secagg_head": bytearray(9)},
        {"secagg_body": None},
        {"secagg_head": b""},
        {"secagg_head": b"SAGP\x01\x02"},
        {"secagg_shown": {}},
        {"secagg_shown": {"config": {}, "arrays": {}}},
        {"secagg_shown": {"config": {"lr": [[1]]}}},
        {"secagg_shown": 7},
    ],
    ids=repr,
)
def test_a_call_that_is_none_is_answered_by_a_refusal_and_by_nothing_else(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    study = Study(tmp_path, names="abcd")
    study.job.tamper = lambda site, given: {**given, **arguments} if site == "d" else given
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    for reply in study.job.heard("d"):
        assert isinstance(decode_head(unpacked(reply["result"]).head), Refused)


def test_what_cannot_be_enrolled_says_so_at_the_site_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcdef")

    def breaks(site: str) -> Any:
        raise OSError(SECRET)

    study.join("e", by(1.0), enrol=breaks)
    study.join("f", by(1.0), enrol=lambda site: "enrolled")
    outcome = study.train()
    assert set(outcome.lost) == set("ef")
    assert "row 17" in caplog.text
    assert "enrol gave a str; it gives an Enrolment" in caplog.text
    for name in "ef":
        assert "patients" not in left_the_site(study, name)
        assert decode_head(unpacked(study.job.heard(name)[0]["result"]).head) == Refused(UNABLE)


def test_a_site_enrols_for_each_message(tmp_path: Path) -> None:
    study, enrolled = Study(tmp_path), []

    def enrol(site: str) -> Any:
        enrolled.append(site)
        if len(enrolled) == 1:
            raise OSError("the disk is gone")  # nothing of it stays: the next greeting finds another
        return study.enrol(site)

    study.join("c", by(0.3, 30), enrol=enrol)
    with study.secure() as secure:
        for _ in range(2):
            assert secure.train(zeros()).contributors == ("a", "b", "c")
        assert enrolled == ["c"] * len(study.job.heard("c"))


# The state


def test_a_process_started_anew_goes_on_with_its_state(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED)
    with study.secure() as secure:
        secure.train(zeros())
        calls = len(study.steps("c"))
        study.join("c", by(0.3, 30))  # a new process: it remembers nothing, its folder does
        study.job.sites["c"].app._abort_signal = study.job.abort
        assert secure.train(zeros()).contributors == ("a", "b", "c")
    assert len(study.steps("c")) - calls == len(MASKED.exchanges(first=False))


def test_a_lost_state_is_a_fresh_join(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, names="abcd", enrols={})
    with study.secure() as secure:
        secure.train(zeros())
        for each in (tmp_path / "d").iterdir():
            if each.name != "releases.sqlite":
                each.unlink()
        assert secure.train(zeros()).contributors == ("a", "b", "c", "d")
    assert "the state of this site is gone; it joins afresh" in caplog.text


def test_a_state_restored_from_a_backup_is_seen_by_the_process_that_lived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, protocol=MASKED)
    with study.secure() as secure:
        secure.train(zeros())
        shutil.copytree(tmp_path / "c", tmp_path / "backup")
        secure.train(zeros())
        for each in (tmp_path / "backup").iterdir():
            if each.name != "releases.sqlite":
                shutil.copy(each, tmp_path / "c" / each.name)
        secure.train(zeros())
        assert "the state of this site is an older or another one; it joins afresh" in caplog.text
        assert secure.train(zeros()).contributors == ("a", "b", "c")


def test_a_lost_log_is_healed_by_a_new_session(tmp_path: Path) -> None:
    study = Study(tmp_path, names="abcd")
    with study.secure() as secure:
        secure.train(zeros())
        for each in (tmp_path / "d").glob("releases.sqlite*"):
            each.unlink()
        lost = secure.train(zeros())
        assert set(lost.lost) == {"d"}
        assert "release log lost that entry" in lost.lost["d"]
        secure.renew()
        assert secure.train(zeros()).contributors == ("a", "b", "c", "d")


def test_an_older_session_does_not_open_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, protocol=PLAIN)
    with study.secure() as old:
        old.train(zeros())
        study.train()  # another server, a later session
        caplog.clear()
        assert old.train(zeros()).aborted
        assert "closed all before it" in caplog.text
        assert study.train().contributors == ("a", "b", "c")


def test_a_log_line_for_each_round_and_no_value_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path)
    with caplog.at_level(logging.INFO, logger="secagg"):
        study.train()
    assert "train: the sum of 3 of 3" in caplog.messages
    assert not any("0.1" in message or "0.2" in message for message in caplog.messages)


@pytest.mark.parametrize("where", ["training", "enrolling", "telling"])
def test_no_words_of_a_site_are_in_the_log_that_nvflare_sends_to_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """NVFlare streams what a site logs as an error, tracebacks with it."""

    def broken(*given: Any) -> Any:
        raise ValueError(SECRET)

    study = Study(
        tmp_path,
        protocol=CkksSum(max_clients=3, max_weight=100) if where == "telling" else PLAIN,
        evaluate_metrics={"accuracy": (0.0, 1.0)},
    )
    joins = {"training": {}, "enrolling": {"enrol": broken}, "telling": {"on_evaluation": broken}}[where]
    study.join("a", fails if where == "training" else by(0.1, 10), **joins)
    with caplog.at_level(logging.DEBUG, "secagg"), study.secure() as clients:
        clients.train(zeros())
        clients.evaluate(zeros())
    said = [record for record in caplog.records if record.name == "secagg" and record.exc_info]
    assert any(SECRET in str(record.exc_info) for record in said)
    assert all(record.levelno < logging.ERROR for record in said)
