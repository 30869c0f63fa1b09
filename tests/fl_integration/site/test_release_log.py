"""A release log that outlives its process."""

import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_integration.site.release_log import SqliteReleaseLog
from protocols import Identity, MaskedSum, NeedUpdate, Policy, ReleaseLog, Roster, Round
from secagg.errors import ParameterError
from secagg.secret import Secret
from tests.fresh import ROOT


@pytest.fixture
def path(tmp_path):
    return tmp_path / "releases"


def test_the_first_digest_stands(path):
    with SqliteReleaseLog(path) as log:
        assert log.insert(b"s", 0, 0, b"first") == b"first"
        assert log.insert(b"s", 0, 0, b"second") == b"first"
        assert log.insert(b"s", 0, 0, b"first") == b"first"


@pytest.mark.parametrize("other", [(b"t", 1, 3), (b"s", 2, 3), (b"s", 1, 4)])
def test_session_round_and_step_each_make_a_place(path, other):
    with SqliteReleaseLog(path) as log:
        log.insert(b"s", 1, 3, b"here")
        assert log.insert(*other, b"there") == b"there"
        assert log.insert(b"s", 1, 3, b"there") == b"here"


def test_it_outlives_the_object_and_takes_the_largest_numbers(path):
    last = (1 << 63) - 1
    with SqliteReleaseLog(path) as log:
        log.insert(b"\x00\xff", last, last, bytes(32))
    with SqliteReleaseLog(str(path)) as log:
        assert log.insert(b"\x00\xff", last, last, b"x" * 32) == bytes(32)


def test_what_was_inserted_is_committed_before_insert_returns(path):
    log = SqliteReleaseLog(path)
    log.insert(b"s", 1, 2, b"digest")
    with sqlite3.connect(path) as other:  # a second connection sees committed rows only
        assert other.execute("SELECT session, round, step, digest FROM releases").fetchall() == [
            (b"s", 1, 2, b"digest")
        ]
    other.close()
    log.close()


def test_two_logs_on_one_file_agree(path):
    with SqliteReleaseLog(path) as one, SqliteReleaseLog(path) as two:
        assert one.insert(b"s", 1, 1, b"one") == b"one"
        assert two.insert(b"s", 1, 1, b"two") == b"one"


def test_of_many_threads_one_wins(path):
    found = []
    with SqliteReleaseLog(path) as one, SqliteReleaseLog(path) as two:
        threads = [
            threading.Thread(target=lambda log=log, i=i: found.append(log.insert(b"s", 0, 0, b"%d" % i)))
            for i, log in enumerate([one, two] * 4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b"]), st.integers(0, 2), st.integers(0, 2), st.binary(min_size=1))
    )
)
def test_it_is_a_dict_with_setdefault(tmp_path_factory, entries):
    truth: dict[tuple[bytes, int, int], bytes] = {}
    with SqliteReleaseLog(tmp_path_factory.mktemp("log") / "releases") as log:
        for session, round, step, digest in entries:
            assert log.insert(session, round, step, digest) == truth.setdefault(
                (session, round, step), digest
            )


@pytest.mark.parametrize(
    "entry",
    [
        (b"", 0, 0, b"d"),
        ("s", 0, 0, b"d"),
        (b"s", 0, 0, b""),
        (b"s", 0, 0, bytearray(b"d")),
        (b"s", -1, 0, b"d"),
        (b"s", 1 << 63, 0, b"d"),
        (b"s", 1.0, 0, b"d"),
        (b"s", 0, True, b"d"),
        (b"s", 0, -1, b"d"),
    ],
)
def test_bad_entries_are_refused_and_leave_nothing(path, entry):
    with SqliteReleaseLog(path) as log:
        with pytest.raises(ParameterError):
            log.insert(*entry)
        assert log.insert(b"s", 0, 0, b"good") == b"good"


def test_a_closed_log_refuses(path):
    log = SqliteReleaseLog(path)
    log.close()
    log.close()
    with pytest.raises(ParameterError, match="closed"):
        log.insert(b"s", 0, 0, b"d")


@pytest.mark.parametrize(
    "content", [b"not a database, whatever its name says", b"SQLite format 3\x00" + bytes(90)]
)
def test_a_file_of_another_kind_is_refused_and_left_alone(path, content):
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ParameterError, match="release log"):
        SqliteReleaseLog(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(path):
    path.touch(mode=0o600)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE releases (x)")
    other.close()
    with pytest.raises(ParameterError, match="something else"):
        SqliteReleaseLog(path)


@pytest.mark.parametrize("version", [0, 3])
def test_a_log_of_another_version_is_refused(path, version):
    SqliteReleaseLog(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {version}")
    other.close()
    with pytest.raises(ParameterError, match="version 2"):
        SqliteReleaseLog(path)


# Its identity, and what it counts


def test_an_identity_is_drawn_once_for_a_file(path, tmp_path):
    with SqliteReleaseLog(path) as log, SqliteReleaseLog(tmp_path / "another") as other:
        identity = log.identity
        assert type(identity) is bytes
        assert len(identity) == 16
        assert identity != other.identity
        with SqliteReleaseLog(path) as twice:
            assert twice.identity == identity
    with SqliteReleaseLog(path) as log:
        assert log.identity == identity


def test_entries_are_counted_by_their_session(path):
    with SqliteReleaseLog(path) as log:
        assert log.count(b"s") == 0
        for place in [(b"s", 1, 1), (b"s", 1, 2), (b"s", 2, 1), (b"t", 1, 1), (b"s", 1, 1)]:
            log.insert(*place, b"digest")
        assert [log.count(name) for name in (b"s", b"t", b"s\x00", b"S")] == [3, 1, 0, 0]
    with SqliteReleaseLog(path) as log:
        assert log.count(b"s") == 3


@pytest.mark.parametrize("session", [b"", "s", bytearray(b"s"), None])
def test_what_is_no_name_is_not_counted(path, session):
    with SqliteReleaseLog(path) as log, pytest.raises(ParameterError, match="session"):
        log.count(session)


def test_a_closed_log_counts_nothing(path):
    log = SqliteReleaseLog(path)
    log.close()
    with pytest.raises(ParameterError, match=r"cannot be read.*closed"):
        log.count(b"s")


FIRST_FORMAT = """
CREATE TABLE releases (
    session BLOB NOT NULL,
    round INTEGER NOT NULL,
    step INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (session, round, step)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 0x53414747;
PRAGMA user_version = 1;
INSERT INTO releases VALUES (CAST('s' AS BLOB), 1, 3, CAST('first' AS BLOB));
"""


def write_first_format(path):
    """A log as release 0.1.0 left it, with one entry."""
    path.touch(mode=0o600)
    other = sqlite3.connect(path)
    other.executescript(FIRST_FORMAT)
    other.close()


def test_a_log_of_the_first_format_gets_an_identity_and_keeps_its_entries(path):
    write_first_format(path)
    with SqliteReleaseLog(path) as log:
        identity = log.identity
        assert len(identity) == 16
        assert log.count(b"s") == 1
        assert log.insert(b"s", 1, 3, b"second") == b"first"
    with SqliteReleaseLog(path) as log:
        assert log.identity == identity
        assert log.insert(b"s", 1, 3, b"second") == b"first"


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    write_first_format(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", lambda size: b"too short")
        with pytest.raises(ParameterError):
            SqliteReleaseLog(path)
    assert path.read_bytes() == before
    with SqliteReleaseLog(path) as log:
        assert log.insert(b"s", 1, 3, b"second") == b"first"


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM identity",
        "DROP TABLE identity",
        "UPDATE identity SET identity = CAST('short' AS BLOB)",
        "INSERT INTO identity VALUES (randomblob(16))",
    ],
)
def test_a_log_whose_identity_was_tampered_with_is_refused(path, change):
    SqliteReleaseLog(path).close()
    with sqlite3.connect(path) as other:
        other.execute(change)
    other.close()
    with pytest.raises(ParameterError):
        SqliteReleaseLog(path)


@pytest.mark.parametrize("prepare", [lambda path: None, write_first_format], ids=["new", "first format"])
def test_processes_that_open_a_file_at_once_agree_on_its_identity(path, prepare):
    prepare(path)
    program = """
import sys
from fl_integration.site.release_log import SqliteReleaseLog
print("ready", flush=True)
sys.stdin.readline()
with SqliteReleaseLog(sys.argv[1]) as log:
    print(log.identity.hex())
    log.insert(b"session", 0, int(sys.argv[2]), b"digest")
"""
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, str(path), str(index)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
            for index in range(6)
        ]
        assert all(child.stdout.readline() == "ready\n" for child in children)
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        said = {child.communicate(timeout=120)[0].strip() for child in children}
    assert all(child.returncode == 0 for child in children)
    with SqliteReleaseLog(path) as log:
        assert said == {log.identity.hex()}
        assert log.count(b"session") == 6


@pytest.mark.parametrize("name", ["", ":memory:", "absent/releases", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError):
        SqliteReleaseLog(name)
    assert list(tmp_path.iterdir()) == []


def masked_round(log: ReleaseLog | None):
    """A client of MaskedSum after ShareKeys, saved; and the request for its update."""
    protocol = MaskedSum(max_clients=3)
    identities = [Identity.generate(name) for name in "abc"]
    roster, session = Roster.of(*identities), bytes(16)
    server = protocol.server(roster=roster, session=session)
    clients = {
        each.client: protocol.client(
            identity=each, roster=roster, session=session, policy=Policy(release_log=log)
        )
        for each in identities
    }
    outbox = server.start(Round(0, tuple("abc"), 4))
    for _ in range(2):
        for name, request in outbox.items():
            server.receive(name, clients[name].receive(request))
        outbox = server.advance()
    key = Secret(bytes(32))
    return protocol, clients["a"].export(key=key), key, outbox["a"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_client_rolled_back_in_a_new_process_releases_nothing_else(path, durable):
    """ATTACKS A14. The attack works on a client whose log dies with its process, and fails with this one."""

    def released(value: float) -> bytes | None:
        """What a client that comes back from the saved state sends for this update."""
        log = SqliteReleaseLog(path) if durable else None
        client = protocol.restore_client(saved, key=key, release_log=log)
        assert isinstance(client.receive(request), NeedUpdate)
        reply = client.contribute(np.full(4, value))
        if log is not None:
            log.close()
        return None if client.refusal else reply

    if durable:
        with SqliteReleaseLog(path) as log:
            protocol, saved, key, request = masked_round(log)
    else:
        protocol, saved, key, request = masked_round(None)
    assert released(0.25) is not None
    assert (released(-0.5) is None) is durable


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_log_that_was_opened_before_a_fork_refuses_in_the_child(path):
    with SqliteReleaseLog(path) as log:
        log.insert(b"session", 1, 1, b"first")
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            try:
                for call in (lambda: log.insert(b"session", 1, 1, b"second"), lambda: log.count(b"session")):
                    try:
                        said = b"%r" % call()
                    except ParameterError as error:
                        said = str(error).encode()
                    os.write(write, said)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 1000).count(b"was opened in another process") == 2
        assert log.insert(b"session", 1, 1, b"third") == b"first"
