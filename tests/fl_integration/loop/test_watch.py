"""Bars on a real pseudo-terminal and none elsewhere; log lines; curves."""

import io
import logging
import os
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from fl_integration.loop.report import RoundReport
from fl_integration.loop.watch import Bar, Progress, Watch, human, log_round, to_tensorboard
from protocols.simulation import Traffic
from secagg.errors import ParameterError

ESCAPE = "\x1b"
NAMES = frozenset({"basel", "graz", "wien"})


def report(number: int = 0, **values) -> RoundReport:
    common = {
        "number": number,
        "asked": NAMES,
        "contributors": NAMES,
        "total_weight": 920,
        "metrics": {"loss": 0.51234},
        "traffic": {"server": Traffic(1_000_000, 2_000_000), "basel": Traffic(2_000_000, 1_000_000)},
    }
    return RoundReport(**{**common, **values})


EVALUATED = {"loss": 0.4, "auc": 0.87654, "accuracy": 0.8, "auc_error": 0.001, "examples": 310.0}


class Terminal:
    """A pseudo-terminal in the place of standard error, and what was written to it."""

    def __init__(self, monkeypatch) -> None:
        self._master, slave = pytest.importorskip("pty").openpty()
        self.stream = os.fdopen(slave, "w")
        for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        self._patch = monkeypatch

    def __enter__(self) -> "Terminal":
        # Not in a fixture: pytest takes standard error for itself again before the test begins.
        self._patch.setattr(sys, "stderr", self.stream)
        return self

    def __exit__(self, *_) -> None:
        self._patch.undo()
        self.stream.close()
        os.close(self._master)

    def written(self) -> str:
        self.stream.flush()
        os.set_blocking(self._master, False)
        parts = []
        while True:
            try:
                parts.append(os.read(self._master, 1 << 16))
            except BlockingIOError:
                return b"".join(parts).decode()


def pipe(monkeypatch) -> io.StringIO:
    """What is no terminal, in the place of standard error, though the environment asks for colours."""
    stream = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def shown(watch: Watch, *reports: RoundReport, rounds: int = 5, done: int = 0) -> None:
    with Bar(watch, rounds=rounds, done=done) as bar:
        for each in reports:
            bar.update(each)


# --- on a terminal ---------------------------------------------------------------------------------------


def test_a_terminal_sees_rounds_metrics_bytes_and_time(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        shown(Watch(), report(0), report(1, evaluation=EVALUATED), report(2))
        written = terminal.written()
        first, second, third = (written.split(f"{n}/5")[1].split("/5")[0] for n in (1, 2, 3))
        assert "loss 0.5123, 3.0 MB" in first
        assert "loss 0.4, auc 0.8765, accuracy 0.8, 6.0 MB" in second
        assert "loss 0.4, auc 0.8765, accuracy 0.8, 9.0 MB" in third  # of the last evaluation
        assert "--:--" in first


def test_a_training_that_is_taken_up_again_begins_where_it_was(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        shown(Watch(), report(3), done=3)
        written = terminal.written()
        assert "3/5" in written
        assert "4/5" in written
        assert "1/5" not in written


def test_the_terminal_is_tidy_after_an_error(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        out, err = sys.stdout, sys.stderr

        def fail():
            with Bar(Watch(), rounds=5) as bar:
                bar.update(report())
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert (sys.stdout, sys.stderr) == (out, err)
        written = terminal.written()
        assert written.rindex(f"{ESCAPE}[?25h") > written.rindex(f"{ESCAPE}[?25l")  # the cursor is back
        sys.stderr.write("next\n")
        assert terminal.written() == "next\r\n"


def test_metrics_are_text_and_no_markup(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        shown(Watch(), report(evaluation={"[bold]f1[/bold]": 1 / 3, "{task}": 2.0}))
        assert "[bold]f1[/bold] 0.3333, {task} 2, 3.0 MB" in terminal.written()


def test_what_goes_to_a_file_goes_there_while_a_bar_is_drawn(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        file = io.StringIO()
        monkeypatch.setattr(sys, "stdout", file)
        with Bar(Watch(), rounds=5):
            sys.stdout.write("a result\n")
        assert file.getvalue() == "a result\n"
        assert "a result" not in terminal.written()


@pytest.mark.parametrize("inner", [Progress.ON_TERMINAL, Progress.ALWAYS])
def test_a_bar_within_a_bar_is_not_drawn(monkeypatch, inner):
    with Terminal(monkeypatch) as terminal:
        with Bar(Watch(), rounds=7):
            shown(Watch(progress=inner), report(), rounds=5)
        written = terminal.written()
        assert "0/7" in written
        assert "/5" not in written
        assert ("round 1 of 5: loss 0.5123, 3.0 MB" in written) == (inner is Progress.ALWAYS)


def test_a_terminal_without_control_codes_gets_none(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        monkeypatch.setenv("TERM", "dumb")
        shown(Watch(progress=Progress.ALWAYS), report())
        assert terminal.written() == "round 1 of 5: loss 0.5123, 3.0 MB\r\n"


def test_never_is_never(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        shown(Watch(progress=Progress.NEVER), report())
        assert terminal.written() == ""


def test_without_rich_there_is_no_bar(monkeypatch):
    with Terminal(monkeypatch) as terminal:
        monkeypatch.setitem(sys.modules, "rich.console", None)
        shown(Watch(), report())
        assert terminal.written() == ""
        shown(Watch(progress=Progress.ALWAYS), report())
        assert terminal.written() == "round 1 of 5: loss 0.5123, 3.0 MB\r\n"


# --- elsewhere -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [Progress.ON_TERMINAL, Progress.NEVER])
def test_a_pipe_sees_nothing(monkeypatch, progress):
    stream = pipe(monkeypatch)
    shown(Watch(progress=progress), report(), report(1, evaluation=EVALUATED))
    assert stream.getvalue() == ""


def test_a_pipe_sees_plain_lines_if_it_shall(monkeypatch):
    stream = pipe(monkeypatch)
    shown(Watch(progress=Progress.ALWAYS), report(), report(1, evaluation=EVALUATED, metrics={}))
    assert stream.getvalue() == (
        "round 1 of 5: loss 0.5123, 3.0 MB\nround 2 of 5: loss 0.4, auc 0.8765, accuracy 0.8, 6.0 MB\n"
    )


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_a_standard_error_there_is_nothing_to_say(monkeypatch, stream):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    shown(Watch(progress=Progress.ALWAYS), report())


# --- log -------------------------------------------------------------------------------------------------


def logged(caplog, *args: RoundReport, rounds: int = 10) -> tuple[int, str]:
    with caplog.at_level(logging.INFO, logger="secagg"):
        for each in args:
            log_round(each, rounds)
    [record] = caplog.records
    assert record.name == "secagg"
    return record.levelno, record.getMessage()


def test_a_good_round_is_one_line(caplog):
    assert logged(caplog, report(3, evaluation={"loss": 0.4, "auc": 0.87654})) == (
        logging.INFO,
        "round 3 (4 of 10): 3 of 3 sites; total weight 920; training loss 0.5123; "
        "evaluation loss 0.4, auc 0.8765; 3.0 MB",
    )


def test_a_round_of_which_little_is_known(caplog):
    line = logged(caplog, report(metrics={}, total_weight=None, traffic={}))
    assert line == (logging.INFO, "round 0 (1 of 10): 3 of 3 sites; 0 B")


def test_a_site_that_sits_out_is_a_warning(caplog):
    level, line = logged(
        caplog,
        report(
            contributors=NAMES - {"graz"},
            dropped={"wien": "its message does not decode", "graz": "did not answer"},
            culprits=frozenset({"wien"}),
        ),
    )
    assert level == logging.WARNING
    assert line.startswith("round 0 (1 of 10): 2 of 3 sites; ")
    assert line.endswith(
        "; 2 sat out: graz (did not answer), wien (its message does not decode, broke the protocol)"
    )


def test_an_aborted_round_is_a_warning(caplog):
    level, line = logged(caplog, report(aborted="too few are left", total_weight=None, metrics={}))
    assert (level, line) == (logging.WARNING, "round 0 (1 of 10): aborted: too few are left; 3.0 MB")


def test_anothers_words_stay_on_their_line(caplog):
    _, line = logged(caplog, report(dropped={"graz": f"no\nERROR %s {ESCAPE}[2J" + "x" * 300}))
    assert "graz (no?ERROR %s ?[2Jxxx" in line
    assert line.endswith("x…)")
    assert len(line) < 400
    assert line.isprintable()


# --- curves ----------------------------------------------------------------------------------------------


class Written(list):
    def add_scalar(self, tag, scalar_value, global_step=None):
        self.append((tag, scalar_value, global_step))


def test_a_round_becomes_scalars():
    writer = Written()
    write = to_tensorboard(writer)
    write(report(4, evaluation={"auc": 0.9}, clipped_share=0.25, side_traffic={"server": Traffic(7, 9)}))
    assert {tag: value for tag, value, _ in writer} == {
        "training/loss": 0.51234,
        "evaluation/auc": 0.9,
        "round/contributors": 3,
        "round/clipped_share": 0.25,
        "round/total_weight": 920,
        "bytes/up": 2_000_000,
        "bytes/down": 1_000_000,
        "bytes/beside_up": 9,
        "bytes/beside_down": 7,
    }
    assert {step for _, _, step in writer} == {4}


def test_what_is_not_known_is_no_scalar():
    writer = Written()
    to_tensorboard(writer)(report(metrics={}, total_weight=None, traffic={}, aborted="too few"))
    assert [each[:2] for each in writer] == [("round/contributors", 0), ("round/clipped_share", 0.0)]


def test_a_real_writer_takes_it(tmp_path):
    writer = pytest.importorskip("tensorboardX").SummaryWriter(str(tmp_path))
    to_tensorboard(writer)(report(0, evaluation=EVALUATED))
    writer.close()
    [file] = tmp_path.iterdir()
    assert b"evaluation/auc" in file.read_bytes()


def test_a_writer_without_scalars_is_refused():
    with pytest.raises(ParameterError, match=r"a str has no add_scalar\(tag, value, step\); pass a"):
        to_tensorboard("runs/1")


# --- arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_round", "on_model", "on_message"])
def test_a_callback_is_a_function(name):
    with pytest.raises(ParameterError, match=f"{name} is a list; it must be a function, or None"):
        Watch(**{name: []})


@pytest.mark.parametrize("progress", [True, "always", None])
def test_progress_is_an_enum(progress):
    with pytest.raises(ParameterError, match=r"progress is .*; it must be one of Progress\.ON_TERMINAL, "):
        Watch(progress=progress)


def test_a_watch_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Watch().progress = Progress.NEVER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds is 0; it must be an int of at least 1"),
        ({"rounds": 2.5}, "rounds is 2.5; it must be an int"),
        ({"rounds": 3, "done": 4}, r"done is 4; it must be an int in \[0, 3\]"),
        ({"rounds": 3, "done": -1}, "done is -1; it must be an int in"),
    ],
)
def test_a_bar_refuses_numbers_outside(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Bar(Watch(), **arguments)


def test_a_bar_takes_numpys_numbers(monkeypatch):
    stream = pipe(monkeypatch)
    shown(Watch(progress=Progress.ALWAYS), report(), rounds=np.int64(3), done=np.int32(1))
    assert stream.getvalue().startswith("round 2 of 3: ")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (10**18, "1000.0 PB"),
    ],
)
def test_bytes_are_readable(size, text):
    assert human(size) == text
