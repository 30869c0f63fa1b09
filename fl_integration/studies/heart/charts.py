"""The pictures: how well each way of training does, and what the server of MaskedSum gets to see.

Colours are of the palette of Okabe and Ito, which people with any common colour blindness can tell apart;
lines differ in style as well. All comes from the run, the masked vector from the bytes on the wire.
"""

import io
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fl_integration.studies.heart.choices import Choice, short_name
from fl_integration.studies.heart.federation.wires import back_in, reading_of
from fl_integration.studies.heart.findings import Act, Floats, Glimpse, Row
from secagg.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["auc_by_round", "what_the_server_saw"]

_INK: Final = "#1b1f24"
_GREY: Final = "#6b7280"
_GRID: Final = "#e5e7eb"
_ORANGE: Final = "#E69F00"
_BLUE: Final = "#0072B2"
_GREEN: Final = "#009E73"
_RED: Final = "#D55E00"
_PURPLE: Final = "#CC79A7"
_SKY: Final = "#56B4E9"

_STYLES: Final[dict[Choice, dict[str, Any]]] = {
    Choice.MASKED: {
        "color": _BLUE,
        "linestyle": "none",
        "marker": "o",
        "markersize": 19,
        "fillstyle": "none",
    },
    Choice.LATTICE: {
        "color": _SKY,
        "linestyle": "none",
        "marker": "D",
        "markersize": 13,
        "fillstyle": "none",
    },
    Choice.CKKS: {"color": _RED, "linestyle": "none", "marker": "s", "markersize": 9, "fillstyle": "none"},
    Choice.PAILLIER: {"color": _GREEN, "linestyle": "none", "marker": "x", "markersize": 6},
    Choice.PLAIN: {"color": _PURPLE, "linestyle": "none", "marker": "+", "markersize": 8},
}
"""One inside the other, so that equal values stay visible."""
_ENGINE_STYLE: Final[dict[str, Any]] = {
    "color": _PURPLE,
    "linestyle": "none",
    "marker": "h",
    "markersize": 26,
    "fillstyle": "none",
}
_PRIVATE_STYLE: Final[dict[str, Any]] = {"color": _RED, "linestyle": (0, (3, 2)), "linewidth": 2.0}

_NAMES: Final = {
    "age": "age",
    "trestbps": "resting blood pressure",
    "chol": "cholesterol",
    "thalch": "highest heart rate",
    "oldpeak": "ST depression",
    "sex": "male",
    "fbs": "fasting sugar > 120",
    "exang": "angina on exercise",
    "cp_1": "typical angina",
    "cp_2": "atypical angina",
    "cp_3": "other chest pain",
    "cp_4": "no chest pain",
    "restecg_0": "ECG normal",
    "restecg_1": "ECG ST-T abnormal",
    "restecg_2": "ECG hypertrophy",
    "intercept": "intercept",
}
_SAME: Final = 1e-4
_CAPTION: Final = 135
"""Letters in the width of a figure."""
_ON_WHITE: Final[dict[str, Any]] = {"facecolor": "white", "edgecolor": "none", "pad": 2}


def auc_by_round(act: Act) -> bytes:
    """PNG: AUC on all test patients together, by round."""
    with _figure(width=12, height=6.4) as (figure, finish):
        axes = figure.subplots()
        rounds = np.arange(1, act.rounds + 1)
        reading = "" if act.engine is None else reading_of(act.engine)
        levels: list[tuple[float, str, str]] = []
        for row in act.rows:
            if row.kind in ("alone", "pooled"):
                color, style = (_ORANGE, (0, (7, 2))) if row.kind == "pooled" else (_GREY, (0, (1, 2)))
                axes.axhline(row.overall.value, color=color, linestyle=style, linewidth=1.8, zorder=1)
                levels.append((row.overall.value, f"{row.title}  {row.overall.value:.3f}", color))
            elif row.kind == "plain":
                axes.plot(rounds, _values(row), color=_INK, linewidth=2.2, label=row.title, zorder=3)
            elif row.kind == "private":
                axes.plot(rounds, _values(row), label=row.title, zorder=3, **_PRIVATE_STYLE)
            if row.choice is not None:
                style_of = _ENGINE_STYLE if row.kind == "engine" else _STYLES[row.choice]
                axes.plot(rounds, _values(row), label=row.title, markeredgewidth=1.8, zorder=4, **style_of)
        if act.lost is not None:
            site, number = act.lost
            axes.axvspan(number + 0.6, number + 1.4, color=_GRID, zorder=0)
            axes.annotate(
                _loss(act, short_name(site), number),
                xy=(number + 1.55, 0.42),
                xycoords=("data", "axes fraction"),
                color=_INK,
                bbox=_ON_WHITE,
            )
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.04 * (high - low), high)
        axes.set_xlim(0.5, act.rounds + 0.5)
        axes.set_xticks([r for r in range(1, act.rounds + 1) if r == 1 or r % max(act.rounds // 10, 1) == 0])
        axes.set_xlabel("round")
        axes.set_ylabel("AUC, all test patients in one ranking")
        axes.grid(axis="y", color=_GRID)
        axes.legend(
            loc="lower right",
            facecolor="white",
            edgecolor="none",
            framealpha=1,
            labelspacing=0.8,
            markerscale=0.7,
        )
        _label_levels(axes, levels)
        _title(figure, _headline(act), _subline(act))
        figure.text(0.015, 0.02, _caption(reading), va="bottom", fontsize=11, color=_GREY)
        figure.subplots_adjust(left=0.075, right=0.795, top=0.85, bottom=0.17 if reading else 0.1)
        return finish()


def what_the_server_saw(glimpse: Glimpse, *, hospitals: int) -> bytes:
    """PNG: one hospital's update, the same update as it reached the server, and the mean of all."""
    name = short_name(glimpse.site)
    labels = [_NAMES.get(parameter, parameter) for parameter in glimpse.parameters]
    rows = np.arange(len(labels) + 1)
    with _figure(width=12, height=6.8) as (figure, finish):
        clear, masked, mean = figure.subplots(1, 3, sharey=True)
        reach = 1.15 * float(max(np.abs(glimpse.update).max(), np.abs(glimpse.mean).max()))
        for axes, values, color in ((clear, glimpse.update, _BLUE), (mean, glimpse.mean, _GREEN)):
            axes.barh(rows[:-1], values, color=color, height=0.7)
            axes.axvline(0, color=_INK, linewidth=0.8)
            axes.set_xlim(-reach, reach)
            axes.set_xlabel("change of the parameter (log-odds)")
            axes.grid(axis="x", color=_GRID)
        masked.barh(rows, glimpse.received / 2.0**glimpse.ring_bits, color=_RED, height=0.7)
        masked.set_xlim(0, 1)
        masked.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        masked.set_xlabel(f"number received, as a share of $2^{{{glimpse.ring_bits}}}$")
        masked.grid(axis="x", color=_GRID)
        for axes, weight in ((clear, glimpse.weight), (mean, glimpse.total_weight)):
            axes.text(0, rows[-1], f"{weight} patients", ha="center", va="center", bbox=_ON_WHITE)
        clear.set_yticks(rows, [*labels, "weight in the mean"])
        clear.invert_yaxis()
        clear.set_title(f"Stays in {name}:\nwhat it learnt from its patients", loc="left")
        masked.set_title(f"Reaches the server:\nthe bytes that {name} sent", loc="left")
        mean.set_title(f"The server learns:\nthe mean of all {hospitals} hospitals", loc="left")
        _title(
            figure,
            "From one hospital the server gets noise; only the sum of all has meaning",
            "MaskedSum, first round in one process, taken from the bytes of the message. "
            "Every number is equally likely, whatever the update was.",
        )
        figure.subplots_adjust(left=0.17, right=0.975, top=0.79, bottom=0.09, wspace=0.09)
        return finish()


def _caption(text: str) -> str:
    return "\n".join(textwrap.wrap(text, width=_CAPTION))


def _values(row: Row) -> Floats:
    """A row's curve; NaN, which is not drawn, where nobody saw the model."""
    return np.array([np.nan if each is None else each for each in row.curve])


def _loss(act: Act, name: str, number: int) -> str:
    if (run := act.engine) is None:
        return f"{name} is lost in round {number + 1}\nand back in round {number + 2}"
    left = len(run.contributors(number))
    ends = "which has no sum" if run.rounds[number].aborted else f"which ends with {left} hospitals"
    back = back_in(run)
    returns = f"it is back in round {back + 1}" if back is not None else "it does not come back"
    return f"{name}'s computer fails in round {number + 1},\n{ends}; {returns}"


def _headline(act: Act) -> str:
    secure = [row for row in act.secure if row.difference is not None]
    same = all(row.difference is not None and row.difference < _SAME for row in secure)
    found = "the same model as" if same else "a model close to"
    if act.engine is not None:
        over = f" over {act.engine.engine}{', one fails' if act.lost is not None else ''}"
        return f"{len(act.hospitals)} hospitals{over}: {found} FedAvg in the clear"
    lost = ", one lost on the way" if act.lost is not None else ""
    return f"{len(act.hospitals)} hospitals{lost}: the secure sums learn {found} FedAvg in the clear"


def _subline(act: Act) -> str:
    largest = max((row.difference or 0.0 for row in act.secure), default=0.0)
    by = f" by more than {largest:.0e}" if largest else " even in its last bit"
    return (
        f"Marks lie on the line because the values agree: no parameter differs{by}. "
        "The scale does not begin at 0."
    )


def _label_levels(axes: "Axes", levels: list[tuple[float, str, str]]) -> None:
    """Names the horizontal lines beside the plot, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap, floor = 0.052 * (high - low), low
    for value, text, color in sorted(levels):
        floor = max(value, floor)
        axes.annotate(
            text,
            xy=(1, value),
            xytext=(1.025, floor),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            color=_INK,
            fontsize=11,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1.2},
            annotation_clip=False,
        )
        floor += gap


def _title(figure: "Figure", headline: str, subline: str) -> None:
    figure.text(0.015, 0.975, headline, va="top", fontsize=15, fontweight="bold", color=_INK)
    figure.text(0.015, 0.922, subline, va="top", fontsize=11.5, color=_GREY)


@contextmanager
def _figure(*, width: float, height: float) -> Iterator[tuple["Figure", Callable[[], bytes]]]:
    """A figure of so many inches at 120 dots each, drawn without a display, and what turns it into a PNG."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(package="matplotlib", extra="demo") from error
    look: dict[Any, Any] = {
        "font.size": 11.5,
        "axes.titlesize": 12.5,
        "axes.edgecolor": _GREY,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
        FigureCanvasAgg(figure)

        def finish() -> bytes:
            stream = io.BytesIO()
            figure.savefig(stream, format="png", metadata={"Software": None})
            return stream.getvalue()

        yield figure, finish
