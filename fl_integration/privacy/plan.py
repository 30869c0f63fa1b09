"""What noise a training asks of whom, and what it promises; known before anything runs.

`str` of a `PrivacyPlan` is a table for people. What it rests on: in every sum that can be opened are at least
`sure_honest` contributors that keep their noise to themselves, and each adds 1/`sure_honest` of the variance
that one trusted party would. Where more contribute there is more noise than promised, by
`contributors_factor`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from fl_integration.privacy.accountant import Release, epsilon_of
from fl_integration.privacy.units import Unit
from protocols.interface import Policy
from protocols.machine.parameters import ExactSum
from secagg.noise import DiscreteGaussian, Skellam

__all__ = ["PrivacyPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """The noise of one cohort's rounds; `str` gives it as a table.

    Attributes:
        unit: whom it protects.
        clients: the cohort's size (n).
        roster: the size of the roster that the cohort was chosen from.
        corrupt: corrupt clients that are planned for (c).
        sure_honest: the fewest honest contributors of any sum that can be opened (h).
        contributors_factor: √(n/h), by which the noise of a sum of all n exceeds one trusted party's.
        noise_multiplier: guaranteed standard deviation over the sensitivity Δ₂.
        sigma_total: standard deviation of the noise in the sum of all n, in grid steps.
        sigma_client: of one client's share, in grid steps.
        epsilon_by_round: ε after 1, 2, … rounds, with `sure_honest` shares of noise.
        epsilon: ε of all rounds, at most what was asked for.
        delta: δ of all rounds, all its parts together.
        delta_noise: the part of δ that the noise has.
        security_failure: the part for what can go wrong in the protocol's plan, over all rounds.
        table_failure: the part for the distance of the noise that is drawn from its law, over all rounds.
        rounds: how many there are.
        entries: of a gradient, an update or a question; 0 where unknown.
        length: values of a summed vector, those of rotation and count with them; 0 where unknown.
        clip: the clip of the first round; 1.0 where nothing is clipped.
        steps: grid steps of one clip; 1 where nothing is clipped.
        reach: no summand is beyond ±reach before its noise; None where sums wrap around and need no bound.
        ring_bits: bits of one summed value on the wire.
        bytes_per_round: what a client sends in a steady round; 0 where the length is unknown.
        exact: the protocol to run the machines of.
        noise: the law of one client's share.
        release: what one round costs, for a ledger.
    """

    unit: Unit
    clients: int
    roster: int
    corrupt: int
    sure_honest: int
    contributors_factor: float
    noise_multiplier: float
    sigma_total: float
    sigma_client: float
    epsilon_by_round: tuple[float, ...]
    epsilon: float
    delta: float
    delta_noise: float
    security_failure: float
    table_failure: float
    rounds: int
    entries: int
    length: int
    clip: float
    steps: int
    reach: int | None
    ring_bits: int
    bytes_per_round: int
    exact: ExactSum
    noise: Skellam | DiscreteGaussian
    release: Release

    @property
    def failure(self) -> float:
        """What one round takes from δ beside its noise, for a ledger of any ε that there can be."""
        return (self.security_failure + self.table_failure) / self.rounds

    @property
    def policy(self) -> Policy:
        """What each client has to insist on, whatever cohort a server announces: as many survivors as here.

        Without it a server that asks fewer opens a sum with fewer honest shares of noise than planned. Among
        more clients than planned no machine of `exact` takes part: there as many survivors would not do.
        """
        carried = self.exact.plan(self.clients, roster=self.roster)
        return Policy(min_contributors=max(2, carried.min_survivors))

    @property
    def sigma_trusted(self) -> float:
        """Standard deviation that one trusted party would add, in grid steps."""
        return self.release.sigma

    def epsilon_with(self, shares: int) -> float:
        """ε of all rounds against those who know all shares of the noise but so many, at least 1."""
        return _epsilon_with(self, shares)

    @property
    def meaning(self) -> tuple[str, ...]:
        """For reports, a line each: what noise changes for those who pool what they know."""
        n, unit = self.clients, self.unit.value
        lines = [f"Who reads only the sums of all {n}: ε = {_short(self.epsilon_with(n))} for a {unit}."]
        if n > 2:
            lines.append(
                "A client, who knows its own noise and takes it off: "
                f"ε = {_short(self.epsilon_with(n - 1))} for a {unit} of the others."
            )
        lines.append(
            f"{_all_but_one(n)} the last one's sum under its own noise alone: "
            f"ε = {_short(self.epsilon_with(1))} for a {unit}, at δ = {self.delta:.2g}; without noise they "
            "would read it exactly."
        )
        return tuple(lines)

    def __str__(self) -> str:
        """The plan as a table of two columns, in plain text."""
        rows = list(self._rows())
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _rows(self) -> Iterator[tuple[str, str]]:
        n, h, law = self.clients, self.sure_honest, self.release.noise.value
        yield "protects", f"a {self.unit.value}: {self.unit.neighbours}"
        chosen = f" of a roster of {self.roster}" if self.roster > n else ""
        corrupt = f"up to {self.corrupt} corrupt" if self.corrupt else "none of them corrupt"
        yield "clients", f"{n}{chosen}, {corrupt}"
        yield "sure and honest", f"at least {h} contributors of every sum that is opened"
        yield "noise", f"{law}, {self._sigma(self.sigma_total)} in a sum of all {n}"
        yield (
            "one trusted party",
            f"{self._sigma(self.sigma_trusted)}, {self.contributors_factor:.3g} times less",
        )
        yield "one client adds", self._sigma(self.sigma_client)
        yield "epsilon", self._budget()
        if n > h + self.corrupt:
            all_n = self.epsilon_with(n - self.corrupt)
            yield "if nobody is lost", f"{_short(all_n)}, {self.corrupt} corrupt take their own noise off"
        if not self.corrupt:
            alone = f"{_short(self.epsilon_with(h - 1))}" if h > 1 else "none"
            yield (
                "a curious client",
                f"{alone} against a contributor that reads the sums and knows its own noise",
            )
        yield "delta", f"{self.delta:.3g}: {self.delta_noise:.3g} for the noise, {self._failures()}"
        if self.release.sampling_rate < 1:
            yield (
                "sampled",
                f"each {self.unit.value} with probability {self.release.sampling_rate:g}, in secret",
            )
        if self.steps > 1:
            yield "grid", f"{self.steps:,} steps a clip of {self.clip:g}"
        sends = f", {self.bytes_per_round:,} bytes a client and round" if self.bytes_per_round else ""
        yield "ring", f"{self.ring_bits} bits a value{sends}"

    def _sigma(self, sigma: float) -> str:
        """A standard deviation, in clips as well where there are clips."""
        steps = f"{sigma:,.0f}" if sigma >= 100 else f"{sigma:.3g}"
        return f"σ {sigma / self.steps:.3g} clips ({steps} steps)" if self.steps > 1 else f"σ {steps}"

    def _budget(self) -> str:
        """ε after a few rounds."""
        shown = sorted({1, *(10**power for power in range(1, 7)), self.rounds})
        return ", ".join(
            f"{_short(self.epsilon_by_round[each - 1])} after {each:,}"
            for each in shown
            if each <= self.rounds
        ) + (" round" if self.rounds == 1 else " rounds")

    def _failures(self) -> str:
        plan = "0" if not self.security_failure else f"{self.security_failure:.2g}"
        return f"{plan} for the protocol's plan, {self.table_failure:.2g} for the tables of noise"


@lru_cache(maxsize=256)
def _epsilon_with(plan: PrivacyPlan, shares: int) -> float:
    # By the law's parameter: a narrow discrete Gaussian deviates by less than that.
    sigma = plan.release.sigma * math.sqrt(shares / plan.sure_honest)
    known = replace(plan.release, sigma=sigma, shares=shares)
    return epsilon_of({known: plan.rounds}, delta=plan.delta_noise)


def _all_but_one(n: int) -> str:
    """Who pools, in words."""
    return {2: "The other client reads", 3: "Two that pool what they know read"}.get(
        n, f"{n - 1} that pool what they know read"
    )


def _short(epsilon: float) -> str:
    """An ε with three digits, rounded up."""
    if not math.isfinite(epsilon) or not epsilon:
        return f"{epsilon:g}"
    unit = 10.0 ** (math.floor(math.log10(epsilon)) - 2)
    return f"{math.ceil(epsilon / unit - 1e-6) * unit:.3g}"
