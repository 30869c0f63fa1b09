"""C5: a Paillier key that can be factored.

Two shipped systems default to 1024 bits. Whoever factors n reads every update of the session, from the
traffic alone. The weakened copy allows 64 bits, so that the factoring takes a moment here; ours refuses
everything under 2048 bits wherever a key can come in, and every length but the one that was agreed.

Not covered: a modulus of good length whose maker kept a trapdoor; its maker holds the private key anyway.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import gmpy2
import numpy as np
import pytest

from protocols import PaillierSum, ParameterError, RoundAborted
from protocols.consortium.client import ConsortiumClientSteps
from protocols.consortium.messages import ConsortiumSecret, DistributeKey, key_id_of
from protocols.machine.suite import Replied
from protocols.messages.schema import decode, encode
from secagg.entropy import SeededEntropy
from secagg.errors import DecodeError, VerificationError
from secagg.paillier import scheme as paillier
from secagg.paillier.packing import Accumulator, Packing, encrypt_vector
from secagg.secret import Secret
from secagg.wire import Writer
from tests.attacks.weakened import Stage, updates_of


def factor(n: int) -> int:
    """Pollard's rho: about 2^16 steps for 64 bits. Number-field sieves reached 829 bits in 2020."""
    x = y = gmpy2.mpz(2)
    while True:
        product, start = gmpy2.mpz(1), (x, y)
        for _ in range(200):
            x, y = (x * x + 1) % n, ((y * y + 1) ** 2 + 1) % n
            product = product * (x - y) % n
        if (found := gmpy2.gcd(product, n)) == n:
            x, y = start
            while (found := gmpy2.gcd(x - y, n)) == 1 or x == y:
                x, y = (x * x + 1) % n, ((y * y + 1) ** 2 + 1) % n
        if 1 < found < n:
            return int(found)


def test_a_short_key_is_factored_and_the_sum_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paillier, "MINIMUM_KEY_BITS", 64)
    entropy = SeededEntropy(b"c5")
    packing = Packing(key_bits=64, bound=100, max_summands=3)
    private = paillier.generate_key(key_bits=64, entropy=entropy)
    vectors = np.random.default_rng(5).integers(-100, 101, (3, 20))
    total = Accumulator(private.public_key, packing.ciphertexts(20))
    on_the_wire = [encrypt_vector(private.public_key, v, packing=packing, entropy=entropy) for v in vectors]
    for body in on_the_wire:
        total.add(body)
    # From here on: public key and traffic alone.
    n = private.public_key.n
    p = factor(n)
    stolen = paillier.PrivateKey(p=p, q=n // p, h_s=None)
    size = private.public_key.ciphertext_bytes
    for vector, body in zip(vectors, on_the_wire, strict=True):
        ciphertexts = [int.from_bytes(body[at : at + size], "big") for at in range(0, len(body), size)]
        plaintexts = [stolen.decrypt_int(each) for each in ciphertexts]
        assert packing.decode(plaintexts, modulus=n, count=20, summands=1).tolist() == vector.tolist()


@pytest.mark.parametrize("key_bits", [0, 64, 512, 1024, 1536, 1984, 2047, 2049, 8256, 3072.0, "3072", True])
def test_no_parameter_asks_for_a_weak_key(key_bits: Any) -> None:
    with pytest.raises(ParameterError):
        PaillierSum(max_clients=4, key_bits=key_bits)
    with pytest.raises(ParameterError):
        paillier.generate_key(key_bits=key_bits)


def test_the_default_is_3072() -> None:
    assert PaillierSum().key_bits == paillier.DEFAULT_KEY_BITS == 3072


@pytest.fixture(scope="module")
def weak() -> tuple[int, int]:
    """Two good primes of 512 bits each."""
    entropy = SeededEntropy(b"1024 bits")
    p, q = (int(gmpy2.next_prime(int.from_bytes(entropy(64), "big") | 3 << 510)) for _ in range(2))
    return min(p, q), max(p, q)


def test_no_decoder_takes_one(weak: tuple[int, int]) -> None:
    p, q = weak
    public = Writer().uint(1024, 2).uint(0, 1).uint(p * q, 128).finish()
    private = Writer().uint(1024, 2).uint(0, 1).uint(p, 64).uint(q, 64).finish()
    with pytest.raises(DecodeError, match="1024"):
        paillier.PublicKey.decode(public)
    with pytest.raises(DecodeError, match="1024"):
        paillier.PrivateKey.decode(Secret(private))
    with pytest.raises(ParameterError):
        paillier.PrivateKey(p=p, q=q, h_s=None)
    with pytest.raises(ParameterError):
        paillier.PublicKey(n=p * q, h_s=None)


# A custodian that makes a weaker key than was agreed


class Weaker(ConsortiumClientSteps):
    """A malicious custodian: a key of another length, for everybody."""

    def __init__(self, scheme: Any, weaker: Any) -> None:
        super().__init__(scheme)
        self._weaker = weaker

    def _generate(self, *arguments: Any) -> Any:
        agreed, self._scheme = self._scheme, self._weaker
        try:
            return super()._generate(*arguments)
        finally:
            self._scheme = agreed

    def _key(self, private: Secret) -> Any:
        return self._weaker.open_key(private)


class Short(ConsortiumClientSteps):
    """A malicious custodian: a public part of 1024 bits."""

    public = b""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if isinstance(step, Replied) and isinstance(step.message, DistributeKey):
            return replace(step, message=replace(step.message, public=self.public))
        return step


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2048 in place of 3072", "1024"])
def test_a_custodian_with_another_key_loses_its_office(kind: str, weak: tuple[int, int]) -> None:
    """The server sees it, another client makes the key, and the round ends with it."""
    protocol = PaillierSum(max_clients=4, key_bits=3072)
    scheme = protocol.suite.client._scheme  # type: ignore[attr-defined]
    if kind == "1024":
        steps: ConsortiumClientSteps = Short(scheme)
        steps.public = Writer().uint(1024, 2).uint(0, 1).uint(weak[0] * weak[1], 128).finish()  # type: ignore[attr-defined]
    else:
        steps = Weaker(scheme, PaillierSum(max_clients=4, key_bits=2048).suite.client._scheme)  # type: ignore[attr-defined]
    stage = Stage(protocol, "mabc", steps={"m": steps})
    data = updates_of("mabc", 3)
    try:
        outcome = stage.play(data)
    except RoundAborted:
        outcome = stage.play(data)  # at the latest, the next round does without it
    assert outcome.contributors >= frozenset("abc")
    assert stage.view.consortium.custodian != "m"
    assert paillier.PublicKey.decode(stage.view.consortium.public).key_bits == 3072


class ShortMacKey(ConsortiumClientSteps):
    """A malicious custodian: a good Paillier key, and a MAC key of one byte."""

    def _generate(self, *arguments: Any) -> Any:
        keyed = super()._generate(*arguments)
        context = arguments[0]
        secret = decode(ConsortiumSecret, keyed.secret.reveal())
        encoded = encode(replace(secret, mac_key=Secret(b"!")))
        key_id = key_id_of(session=context.session, encoded_secret=encoded)
        return replace(keyed, key_id=key_id, secret=Secret(encoded))

    def fold(self, context: Any, state: Any, summand: Any) -> Any:
        raise VerificationError("it is not here to contribute")


def test_a_custodian_with_a_short_mac_key_loses_its_office() -> None:
    """Whoever gets it must refuse it: `ParameterError` would say that the honest caller is at fault."""
    protocol = PaillierSum(max_clients=4, key_bits=2048)
    steps = ShortMacKey(protocol.suite.client._scheme)  # type: ignore[attr-defined]
    stage = Stage(protocol, "mabc", steps={"m": steps})
    data = updates_of("mabc", 3)
    with suppress(RoundAborted):
        stage.play(data)
    assert stage.play(data).contributors >= frozenset("abc")
