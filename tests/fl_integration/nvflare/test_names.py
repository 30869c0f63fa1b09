"""One name for a site: NVFlare's, its certificate's, its identity's; and where its identity comes from."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fl_integration.nvflare import Rehearsed, by_site_files, secure_aggregation
from fl_integration.nvflare.here import Here
from fl_integration.nvflare.names import CERTIFICATE, ROOT, check_names
from fl_integration.site.keys import save_identity
from fl_integration.site.private_files import write_private
from fl_integration.site.roster_file import write_roster
from protocols.membership import RosterVersion
from secagg.errors import ParameterError, VerificationError
from tests.fl_integration.nvflare.stage import Study, by, mean_of, moved, near

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def name_of(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names])


@pytest.fixture(scope="module")
def keys() -> list[Any]:
    return [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]


class Kits:
    """Makes startup kits, good and bad."""

    def __init__(self, keys: list[Any]) -> None:
        self.root, self.other, self.mine = keys

    def certificate(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        by: Any,
        *,
        begin: datetime = NOW - DAY,
        end: datetime = NOW + DAY,
    ) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key((by if subject == issuer else self.mine).public_key())
            .serial_number(7)
            .not_valid_before(begin)
            .not_valid_after(end)
            .sign(by, SHA256())
        )
        return made.public_bytes(Encoding.PEM)

    def write(self, folder: Path, *names: str, by: Any = None, root: Any = None, **validity: Any) -> None:
        of = name_of("the root")
        folder.mkdir(parents=True, exist_ok=True)
        found = {"begin": NOW - DAY, "end": NOW + DAY, **(root or {})}
        (folder / ROOT).write_bytes(self.certificate(of, of, self.root, **found))
        (folder / CERTIFICATE).write_bytes(
            self.certificate(name_of(*names), of, self.root if by is None else by, **validity)
        )


@pytest.fixture
def kits(keys: list[Any]) -> Kits:
    return Kits(keys)


def here(folder: Path, *, name: str = "clinic-a", simulated: bool = False) -> Here:
    places = {each: folder / each for each in ("startup", "local", "job", "config")}
    return Here(name=name, caller="server", simulated=simulated, props={}, published=(), **places)


def checked(folder: Path, client: str = "clinic-a", **of: Any) -> None:
    check_names(here(folder, **of), client, now=lambda: NOW)


def test_one_name_passes(tmp_path: Path, kits: Kits) -> None:
    kits.write(tmp_path / "startup", "clinic-a")
    checked(tmp_path)
    checked(tmp_path, simulated=True)


def test_a_simulator_has_no_certificates_but_names(tmp_path: Path) -> None:
    checked(tmp_path, simulated=True)
    with pytest.raises(
        VerificationError, match="NVFlare's name of this site is 'clinic-a', its identity's is"
    ):
        checked(tmp_path, "clinic-b", simulated=True)


def test_a_kit_is_looked_at_even_where_a_simulator_is_said_to_run(tmp_path: Path, kits: Kits) -> None:
    kits.write(tmp_path / "startup", "clinic-b")
    with pytest.raises(VerificationError, match="names 'clinic-b', NVFlare's name of the site is 'clinic-a'"):
        checked(tmp_path, simulated=True)


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (("clinic-b",), {}, "startup kit names 'clinic-b', NVFlare's name of the site is 'clinic-a'"),
        ((), {}, "startup kit names nobody, NVFlare's name"),
        (("clinic-a", "clinic-b"), {}, "names 'clinic-a' and 'clinic-b'"),
        (
            ("clinic-a",),
            {"end": NOW - timedelta(hours=1)},
            "this site's certificate is valid from 2026-11-28 12",
        ),
        (("clinic-a",), {"begin": NOW + timedelta(hours=1)}, "which is not now: look at this site's clock"),
        (
            ("clinic-a",),
            {"root": {"end": NOW - timedelta(hours=1)}},
            "the root of its startup kit is valid from",
        ),
    ],
)
def test_another_name_or_another_time_is_refused(
    tmp_path: Path, kits: Kits, names: tuple[str, ...], given: Any, message: str
) -> None:
    kits.write(tmp_path / "startup", *names, **given)
    with pytest.raises(VerificationError, match=message):
        checked(tmp_path)


def test_a_certificate_of_another_root_is_refused(tmp_path: Path, kits: Kits) -> None:
    kits.write(tmp_path / "startup", "clinic-a", by=kits.other)
    with pytest.raises(VerificationError, match="is not issued by the root of its startup kit"):
        checked(tmp_path)


@pytest.mark.parametrize("file", [CERTIFICATE, ROOT])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "that can be read; outside of NVFlare's simulator"), (b"PEM", "startup kit is no certificate")],
)
def test_a_kit_that_lacks_something_is_refused(
    tmp_path: Path, kits: Kits, file: str, content: bytes | None, message: str
) -> None:
    kits.write(tmp_path / "startup", "clinic-a")
    (tmp_path / "startup" / file).unlink()
    if content is not None:
        (tmp_path / "startup" / file).write_bytes(content)
    with pytest.raises(VerificationError, match=message) as caught:
        checked(tmp_path)
    assert str(tmp_path) not in str(caught.value)  # it goes to the server


def test_outside_of_the_simulator_a_site_without_its_kit_takes_no_part(
    tmp_path: Path, kits: Kits, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path, names="abcd")
    study.join("d", by(0.4, 40), joins={"simulated": False})
    monkeypatch.setattr("fl_integration.nvflare.here.BEGAN", time.time() + 60.0)  # behind its deployment
    assert moved(study.train()) == near(mean_of("a", "b", "c"))
    assert "this site's startup kit has no client.crt that can be read" in caplog.text
    today = {"begin": datetime.now(UTC) - DAY, "end": datetime.now(UTC) + DAY}
    kits.write(tmp_path / "workspaces" / "d" / "startup", "d", root=today, **today)
    assert moved(study.train()) == near(mean_of("a", "b", "c", "d"))


# Where the identity comes from


@pytest.fixture
def filed(tmp_path: Path, quick_passwords: None) -> Study:
    """A study whose sites' files lie beside it, as their operators would have them."""
    study = Study(tmp_path)
    (tmp_path / "keys").mkdir()
    write_roster(RosterVersion(study.roster), tmp_path / "keys" / "roster.txt")
    for name in study.names:
        save_identity(study.ids[name], tmp_path / "keys" / f"{name}.pem", password="a long password")
        write_private(tmp_path / "keys" / f"{name}.password", b"a long password\n")
        study.join(name, by(0.1 * (1 + "abc".index(name)), 10 * (1 + "abc".index(name))), enrol=by_site_files)
        settle_in(study, name)
    return study


def settle_in(study: Study, name: str, **others: Any) -> Path:
    """Writes a site's `secagg.json`."""
    keys = study.folder / "keys"
    found = {
        "identity": str(keys / f"{name}.pem"),
        "roster": str(keys / "roster.txt"),
        "state": str(study.folder / "states" / name),
        "password-file": str(keys / f"{name}.password"),
        **others,
    }
    path = study.folder / "workspaces" / name / "local" / "secagg.json"
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    path.chmod(0o644)
    return path


def test_a_sites_own_files_say_who_it_is(filed: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert moved(filed.train()) == near(mean_of("a", "b", "c"))
    settle_in(filed, "a", **{"password-file": None})
    monkeypatch.setenv("SECAGG_PASSWORD", "a long password")
    assert moved(filed.train()) == near(mean_of("a", "b", "c"))
    local = filed.folder / "workspaces" / "b" / "local"
    settle_in(filed, "b", roster=os.path.relpath(filed.folder / "keys" / "roster.txt", local))
    assert moved(filed.train()) == near(mean_of("a", "b", "c"))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"identity": None}, "holds paths by name: identity, roster, state and, if the password"),
        ({"more": "x"}, "holds paths by name"),
        ({"state": 7}, "'state' in"),
        ({"state": ""}, "'state' in"),
        ({"password-file": None}, "name a file as password-file, or set SECAGG_PASSWORD"),
        ({"identity": "../job-1/app_c/config/key.pem"}, "'identity' leads into the folder of the job"),
        ({"state": "../job-1"}, "'state' leads into the folder of the job, which the server fills"),
        ({"roster": "nowhere.txt"}, "cannot be opened"),
    ],
)
def test_a_file_that_says_too_little_or_too_much_is_refused_at_its_site(
    filed: Study, caplog: pytest.LogCaptureFixture, others: Any, words: str
) -> None:
    settle_in(filed, "c", **others)
    outcome = filed.train()
    assert outcome.aborted
    assert words in caplog.text
    assert str(filed.folder) not in repr(filed.job.heard("c"))


def test_a_link_into_the_jobs_folder_is_seen(filed: Study, caplog: pytest.LogCaptureFixture) -> None:
    workspace = filed.folder / "workspaces" / "c"
    (workspace / "local" / "key.pem").symlink_to(workspace / "job-1" / "key.pem")
    settle_in(filed, "c", identity="key.pem")
    assert filed.train().aborted
    assert "'identity' leads into the folder of the job" in caplog.text


@pytest.mark.parametrize("content", [None, "{", "[]", "null"])
def test_a_file_that_is_none_is_refused_at_its_site(
    filed: Study, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    path = settle_in(filed, "c")
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert filed.train().aborted
    assert "secagg.json" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="elsewhere modes mean nothing")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_write_is_refused_at_its_site(
    filed: Study, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    settle_in(filed, "c").chmod(mode)
    assert filed.train().aborted
    assert "secagg.json can be written by others than this user; run: chmod go-w" in caplog.text


def test_the_jobs_properties_name_no_file(filed: Study, caplog: pytest.LogCaptureFixture) -> None:
    """A server that knows the names of the settings sets them for one site."""
    elsewhere = filed.folder / "elsewhere"
    filed.job.sites["c"].app.update_props({"state": str(elsewhere), "secagg-state": str(elsewhere)})
    filed.train()
    assert not elsewhere.exists()
    assert (filed.folder / "states" / "c").exists()


# A rehearsal


def test_a_rehearsal_gives_each_site_its_identity(tmp_path: Path) -> None:
    rehearsal = Rehearsed(tmp_path / "rehearsal", ["site-1", "site-2", "site-3"])
    study = Study(tmp_path)
    study.job.sites.clear()
    for place, name in enumerate(rehearsal.sites):
        door = secure_aggregation(study.protocol, rehearsal.enrol, train=by(0.1 * (place + 1)))
        study.job.join(name, SimpleNamespace(secure=door))
    assert moved(study.train(roster=rehearsal.roster)) == near(0.2)
    assert Rehearsed(tmp_path / "rehearsal", rehearsal.sites).roster == rehearsal.roster
    with pytest.raises(ParameterError, match="this site is 'site-4'; the rehearsal's are 'site-1', 'site-2'"):
        rehearsal.enrol("site-4")


@pytest.mark.parametrize("sites", ["abc", ("a",), ("a", "a"), (), ("a", ""), ("a", 1)])
def test_a_rehearsal_has_at_least_two_sites(tmp_path: Path, sites: Any) -> None:
    with pytest.raises(ParameterError):
        Rehearsed(tmp_path, sites)
