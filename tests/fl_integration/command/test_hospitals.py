"""`secagg-hospitals` from end to end, with few rounds, and what its page and pictures are made of."""

import base64
import importlib
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from fl_integration.command.hospitals import main
from fl_integration.studies.heart import (
    charts,
    choices,
    costs,
    declared,
    describing,
    findings,
    numbers,
    report,
    study,
)
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.model import auc
from fl_integration.studies.heart.records import Site
from protocols import Adversary, PlainSum, simulate
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode
from protocols.plain import PlainUpdate
from secagg.errors import ParameterError

PNG = b"\x89PNG\r\n\x1a\n"
FILES = {"auc_by_round.png", "dropout.png", "what_the_server_saw.png", "report.html", "results.json"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The shape of the demonstration, not its size."""
    monkeypatch.setattr(costs, "PARAMETERS", 2000)
    monkeypatch.setattr(costs, "_MEASURED", {Choice.PAILLIER: 200})
    monkeypatch.setattr("fl_integration.command.hospitals.SPLITS", 1)
    monkeypatch.setattr(describing, "_COLUMNS", (declared.MEASUREMENTS[0], declared.CODES[0]))
    monkeypatch.setattr(describing, "_SKEWED", ())


@pytest.fixture(scope="module")
def act_two():
    all_four = (Choice.MASKED, Choice.LATTICE, Choice.CKKS, Choice.PAILLIER)
    return study.run_act(sites=4, choices=all_four, rounds=3, seed=1, lost=study.loss_in_act_two(3))


@pytest.fixture(scope="module")
def act_one():
    return study.run_act(sites=3, choices=(Choice.MASKED, Choice.PLAIN), rounds=2, seed=1)


def row(act, title):
    return next(row for row in act.rows if row.title == title)


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_acts_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert main(["--rounds", "3", "--out", str(out)]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("MaskedSum", "LatticeSum", "CkksSum", "PaillierSum", "FedAvg in the clear", "pooled"):
        assert name in printed
    assert "MaskedSum and LatticeSum make channels" in printed
    assert "…" not in printed  # nothing is cut off
    assert re.search(r"Budapest vanished at MaskedInput in round 2, .* again in round 3", printed)
    assert "2 contributors" in printed
    numbers = json.loads((out / "results.json").read_text())
    assert [len(act["sites"]) for act in numbers["acts"]] == [3, 4]
    for act in numbers["acts"]:
        secure = [each["title"] for each in act["rows"] if each["kind"] == "secure"]
        assert secure == ["MaskedSum", "LatticeSum", "CkksSum", "PaillierSum"]
        for each in act["rows"]:
            if each["kind"] == "secure":
                assert each["largest_difference_from_fedavg"] < 1e-5
                assert each["usage"]["sent"] > 0
    assert numbers["million_parameters"]["paillier"]["scaled"]
    assert not numbers["million_parameters"]["masked"]["scaled"]
    assert not numbers["million_parameters"]["lattice"]["scaled"]


@pytest.mark.slow
def test_the_page_is_self_contained(tmp_path, capsys):
    assert main(["--rounds", "2", "--protocol", "masked", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 3
    pictures = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    assert {(tmp_path / name).read_bytes() for name in FILES if name.endswith("png")} == set(pictures)
    assert all(picture.startswith(PNG) for picture in pictures)
    assert '<td class="number">Age, years</td>' in page
    assert "secure sums of 4 sites" in page
    assert "Measurements are scaled by each hospital&#39;s own mean and deviation" in page
    assert page.index("sum of the other two") < page.index("here withstand a server that reads everything")


@pytest.mark.slow
def test_lattice_alone(tmp_path, capsys):
    """The picture of what the server saw is MaskedSum's, so it is not there."""
    assert main(["--rounds", "2", "--protocol", "lattice", "--out", str(tmp_path)]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"what_the_server_saw.png"}
    assert "LatticeSum makes channels" in printed
    assert "the key that goes with it does not" in printed
    assert "With three hospitals the same loss ends the round: LatticeSum says" in printed
    assert "<td>LatticeSum</td><td>The weighted mean" in (tmp_path / "report.html").read_text()
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert list(numbers["million_parameters"]) == ["lattice"]


@pytest.mark.slow
@pytest.mark.parametrize(("sites", "acts"), [(3, [3]), (4, [4])])
def test_one_act_alone(tmp_path, capsys, sites, acts):
    out = ["--out", str(tmp_path)]
    assert main(["--rounds", "2", "--protocol", "plain", "--sites", str(sites), *out]) == 0
    capsys.readouterr()
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert [len(act["sites"]) for act in numbers["acts"]] == acts
    assert {path.name for path in tmp_path.iterdir()} == {"auc_by_round.png", "report.html", "results.json"}


@pytest.mark.slow
def test_a_second_run_writes_the_same_model_figures(tmp_path, capsys):
    runs = []
    for _ in range(2):
        assert main(["--rounds", "2", "--protocol", "masked", "--sites", "3", "--out", str(tmp_path)]) == 0
        act = json.loads((tmp_path / "results.json").read_text())["acts"][0]
        runs.append([(r["auc"], r["largest_difference_from_fedavg"]) for r in act["rows"]])
    capsys.readouterr()
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    "encoding", ["cp1252", *(pytest.param(each, marks=pytest.mark.slow) for each in ("ascii", "utf-8"))]
)
def test_a_console_of_any_encoding_shows_it_all(encoding, tmp_path, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    assert main(["--rounds", "1", "--protocol", "masked", "--sites", "3", "--out", str(tmp_path)]) == 0
    text = written.getvalue().decode(encoding)
    assert ("10⁶" if encoding == "utf-8" else "10^6") in text
    assert "?" not in text.replace("Who gains by joining?", "")
    assert "results.json" in text


def test_files_are_written_before_anything_is_shown(tmp_path, monkeypatch, capsys):
    def unplugged(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fl_integration.command.showing.show_act", unplugged)
    assert main(["--rounds", "1", "--protocol", "plain", "--sites", "3", "--out", str(tmp_path)]) == 130
    assert (tmp_path / "report.html").exists()
    assert f"the results are in {tmp_path}" in capsys.readouterr().err


@pytest.mark.slow
def test_whoever_reads_only_the_first_lines_gets_the_files(tmp_path):
    command = [sys.executable, "-m", "fl_integration.command.hospitals", "--rounds", "1"]
    reader = ["--protocol", "plain", "--sites", "3", "--out", str(tmp_path)]
    with subprocess.Popen([*command, *reader], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        complaints = child.stderr.read()
    assert complaints == b""
    assert child.returncode in (0, 1)  # what others say of a pipe that was closed
    assert (tmp_path / "report.html").exists()


def test_help_suffices(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("--protocol", "--rounds", "--seed", "--sites", "--out", "examples:", "report.html"):
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--rounds", "1"],
        ["--rounds", "many"],
        ["--seed", "-1"],
        ["--protocol", "rot13"],
        ["--sites", "5"],
        ["--out", __file__],
        ["--out", f"{__file__}/below"],
        ["surplus"],
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert re.fullmatch(r"secagg-hospitals: [^\n]+\n", printed.err)


@pytest.mark.parametrize("package", ["torch", "rich", "matplotlib", "jinja2", "sklearn", "tenseal"])
def test_a_missing_package_is_named_with_its_extra(package, capsys, tmp_path, monkeypatch):
    real = importlib.import_module

    def without(name, *rest):
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    assert main(["--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert re.fullmatch(
        r"secagg-hospitals: [\w-]+ is not installed; run: pip install 'secagg\[\w+\]'\n", printed
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_tenseal_is_not_needed_where_ckks_is_not_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    assert main(["--protocol", "masked", "--rounds", "1", "--sites", "3", "--out", str(tmp_path)]) == 0
    capsys.readouterr()


# --- the experiment -------------------------------------------------------------------------------


def test_every_secure_sum_learns_what_fedavg_learns_although_one_is_lost(act_two):
    site, number = act_two.lost
    assert (site, number) == (Site.BUDAPEST, 1)
    for each in act_two.secure:
        assert each.difference < 1e-5
        assert [len(r.contributors) for r in each.history] == [4, 3, 4]
        assert list(each.history[number].dropped) == ["budapest"]
        assert all(not clipped for r in each.history for clipped in r.clipped.values())
    plain = row(act_two, "FedAvg in the clear")
    assert [len(r.contributors) for r in plain.history] == [4, 3, 4]


def test_a_loss_changes_the_model(act_two):
    """So the agreement above says something: FedAvg that loses nobody is further away than any secure sum."""
    whole = study.run_act(sites=4, choices=(), rounds=3, seed=1)
    one, other = (row(act, "FedAvg in the clear").scores[Site.CLEVELAND] for act in (act_two, whole))
    assert np.abs(one - other).max() > 1e-3


def test_the_rows_and_their_order(act_one):
    assert [r.title for r in act_one.rows] == [
        "Cleveland alone",
        "Budapest alone",
        "Long Beach alone",
        "all rows pooled",
        "FedAvg in the clear",
        "MaskedSum",
        "PlainSum",
    ]
    assert all(len(r.curve) == 2 for r in act_one.rows)
    assert all(r.curve[-1] == pytest.approx(r.overall.value) for r in act_one.rows)


def test_the_glimpse_is_what_went_over_the_wire(act_one):
    """The received vector is far from the update in every element."""
    glimpse = act_one.glimpse
    assert glimpse.received.shape == (17,)
    assert glimpse.weight == len(act_one.hospitals[0].train_y)
    assert glimpse.total_weight == sum(len(h.train_y) for h in act_one.hospitals)
    assert int(glimpse.received.max()) < 1 << glimpse.ring_bits
    step = choices.CLIP / (2 ** (choices.BITS - 1) - 1)
    clear = np.round(glimpse.update / step).astype(np.int64) * glimpse.weight % (1 << glimpse.ring_bits)
    apart = (glimpse.received[:-1].astype(np.int64) - clear) % (1 << glimpse.ring_bits)
    assert np.minimum(apart, (1 << glimpse.ring_bits) - apart).min() > 1 << 16
    assert int(glimpse.received[-1]) != glimpse.weight
    plain = row(act_one, "FedAvg in the clear")
    assert plain.history[0].total_weight == glimpse.total_weight


def test_the_glimpse_shows_an_unmasked_vector_for_what_it_is():
    """The distance that the test above asks for is not there without masks."""
    step, weight = choices.CLIP / (2 ** (choices.BITS - 1) - 1), 242
    update = np.linspace(-0.4, 0.4, 16)
    protocol = PlainSum(bits=choices.BITS, max_clients=3, max_weight=256)
    run = simulate(protocol, dict.fromkeys("abc", update), weights=dict.fromkeys("abc", weight), seed=1)
    body = next(m.body for m in run.transcript if m.sender == "a")
    ring = protocol.suite.surface.ring
    sent, bits = ring.unpack(decode(PlainUpdate, Envelope.decode(body).body).vector, 17), ring.bits
    clear = np.round(update / step).astype(np.int64) * weight % (1 << bits)
    apart = (sent[:-1].astype(np.int64) - clear) % (1 << bits)
    assert np.minimum(apart, (1 << bits) - apart).max() < 1 << 16


@pytest.mark.parametrize("choice", [Choice.MASKED, Choice.LATTICE, Choice.CKKS, Choice.PLAIN])
def test_three_hospitals_cannot_lose_one(choice):
    assert "at least 3" in study.refusal_among_three(choice, seed=1)


def test_a_single_round_has_no_room_for_a_loss():
    with pytest.raises(ParameterError, match="--rounds 2"):
        study.loss_in_act_two(1)
    assert study.loss_in_act_two(2) == (Site.BUDAPEST, 0)


def test_ticks_are_counted():
    seen = []
    study.run_act(sites=3, choices=(Choice.PLAIN,), rounds=2, seed=1, tick=seen.append)
    assert len(seen) == study.ticks(sites=3, choices=(Choice.PLAIN,), rounds=2)


@pytest.mark.parametrize("choice", [Choice.MASKED, Choice.LATTICE])
@pytest.mark.parametrize(
    ("clients", "adversary", "survivors"), [(3, Adversary.SEMI_MALICIOUS, 3), (4, Adversary.MALICIOUS, 3)]
)
def test_the_page_says_whom_the_plan_withstands(choice, clients, adversary, survivors):
    """One hospital beside a server that lies, not two; and no sum of fewer than three is opened."""
    plan = choice.protocol(clients=clients).plan(clients)
    assert plan.adversary is adversary
    assert plan.min_survivors == survivors
    assert plan.corrupt == 1
    assert plan.sure_contributors >= 3


# --- intervals ------------------------------------------------------------------------------------


def test_the_interval_holds_scikit_learns_auc_and_shrinks_with_the_patients():
    rng = np.random.default_rng(5)
    widths = []
    for count in (40, 4000):
        labels = rng.integers(0, 2, count)
        scores = labels + rng.normal(0, 1.5, count)
        low, value, high = findings.interval(labels, scores, seed=1)
        assert value == pytest.approx(auc(labels, scores))
        assert low < value < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.5)


def test_the_interval_is_about_hanley_and_mcneils():
    """Radiology 143 (1982), eq. 1: the standard error of an AUC of exponential scores."""
    rng, n = np.random.default_rng(2), 400
    labels = np.repeat([0, 1], n)
    scores = np.concatenate([rng.exponential(1, n), rng.exponential(3, n)])
    low, a, high = findings.interval(labels, scores, seed=1)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (n * n))
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)


def test_ties_count_half():
    assert findings.interval([0, 1, 1], [1.0, 1.0, 2.0], seed=1)[1] == 0.75


# --- costs, words, files --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["parameters", "measured", "repeats"])
def test_costs_refuse_numbers_that_cannot_be(name):
    arguments = {"parameters": 10, "measured": 10, "repeats": 1, name: 0}
    with pytest.raises(ParameterError, match=name):
        costs.measure(PlainSum(max_clients=3), **arguments)
    with pytest.raises(ParameterError, match="at most"):
        costs.measure(PlainSum(max_clients=3), parameters=9, measured=10, repeats=1)


def test_costs_are_scaled_linearly_and_say_so():
    protocol = PlainSum(max_clients=3)
    whole = costs.measure(protocol, parameters=4000, measured=4000, repeats=1)
    scaled = costs.measure(protocol, parameters=4000, measured=1000, repeats=1)
    assert (whole.scaled, scaled.scaled) == (False, True)
    assert 1 <= scaled.sent / whole.sent < 1.1
    assert report.cost_cells(scaled)[0].endswith("*")
    assert not report.cost_cells(whole)[0].endswith("*")
    assert report.cost_cells(None) == ["", ""]


def test_the_key_of_lattice_sum_weighs_less_the_larger_the_model():
    """What the note says: its length is fixed, so it is most of a small contribution alone."""
    sent = {}
    for choice in (Choice.MASKED, Choice.LATTICE):
        for size in (16, 4000):
            cost = costs.measure(choice.protocol(clients=3), parameters=size, measured=size, repeats=1)
            sent[choice, size] = cost.sent
    key_bytes = 4096 * 9 // 8  # counts whose sum of three is at most 3 * 164
    assert 0.5 < key_bytes / sent[Choice.LATTICE, 16] < 1
    assert sent[Choice.LATTICE, 16] - sent[Choice.MASKED, 16] >= key_bytes
    grown = {c: sent[c, 4000] - sent[c, 16] for c in (Choice.MASKED, Choice.LATTICE)}
    assert grown[Choice.LATTICE] < 1.5 * grown[Choice.MASKED]


def test_sentences_come_from_the_results(act_one):
    gains = [
        findings.Gain(site=site, patients=9, low=low, value=0.0, high=high)
        for site, low, high in [
            (Site.CLEVELAND, -0.1, 0.1),
            (Site.BUDAPEST, 0.01, 0.1),
            (Site.LONG_BEACH, -0.1, -0.01),
        ]
    ]
    changed = findings.Act(
        **{name: getattr(act_one, name) for name in act_one.__slots__ if name != "gains"}, gains=tuple(gains)
    )
    *each, last = report.gain_sentences(changed)
    verdicts = [sentence.rsplit(": ", 1)[1] for sentence in each]
    assert verdicts == ["no clear difference.", "better together.", "worse together."]
    assert re.search(r"Budapest does better .*Long Beach does worse .*Cleveland does about as well", last)


def test_a_test_set_with_two_healthy_patients_is_called_out(act_one, act_two):
    assert report.small_sets(act_one) == []
    (sentence,) = report.small_sets(act_two)
    assert "Only 2 of the 25 test patients of Switzerland are without the disease" in sentence


def test_pictures_are_at_least_1200_wide(act_one, act_two):
    for picture in (
        charts.auc_by_round(act_one),
        charts.auc_by_round(act_two),
        charts.what_the_server_saw(act_one.glimpse, hospitals=3),
    ):
        assert picture.startswith(PNG)
        assert int.from_bytes(picture[16:20], "big") >= 1200


def test_files_are_replaced_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    assert report.write(tmp_path, {"x": b"new", "y": b""}) == (tmp_path / "x", tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_cannot_be_written_leaves_no_scrap(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ParameterError, match="--out"):
        report.write(tmp_path, {"x": b"new"})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_not_a_number_never_reaches_the_file():
    with pytest.raises(ValueError, match="JSON"):
        numbers.as_json({"x": float("nan")})
