"""Peers, in the same run: phe one value at a time, and TenSEAL with the parameters that NVFlare ships.

Each lap measures every contender once, ours and theirs, on the same values; phe on a few of them, because it
needs milliseconds for each. `protocol` rows are a client's whole step: fixed point, MAC, packing, encryption,
envelope; the others are the encryption alone.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Laps, draw_updates, drive, repeat, time_server
from protocols import CkksSum, Client, LatticeSum, PaillierSum, Session
from secagg.ckks import scheme as ckks
from secagg.paillier import packing as paillier_packing
from secagg.paillier import scheme as paillier

LARGEST = 32767
FULL_TURN = 10  # clients whose sum must fit

NVFLARE_DEGREE = 8192
NVFLARE_PRIMES = (60, 40, 40)
NVFLARE_SCALE = 2.0**40


@pytest.mark.parametrize("key_bits", [2048, 3072])
def test_phe(benchmark: BenchmarkFixture, key_bits: int) -> None:
    phe = pytest.importorskip("phe")
    interop = pytest.importorskip("secagg.paillier.phe")
    count, few = 10_000, 4
    updates = draw_updates(3, count)
    (values, *_) = updates.values()
    steps = np.rint(values.astype(np.float64) * LARGEST).astype(np.int64)
    key = paillier.generate_key(key_bits=key_bits)
    theirs = interop.to_phe_private_key(key)
    packing = paillier_packing.Packing(key_bits=key_bits, bound=LARGEST, max_summands=FULL_TURN)
    session = Session(PaillierSum(max_clients=FULL_TURN, key_bits=key_bits), updates)
    laps, numbers = Laps(), iter(range(100))

    def encrypt_ours() -> bytes:
        return paillier_packing.encrypt_vector(key.public_key, steps, packing=packing)

    def decrypt_ours() -> object:
        return paillier_packing.decrypt_vector(key, short, packing=packing, count=opened, summands=1)

    def encrypt_theirs() -> list[Any]:
        return [theirs.public_key.encrypt(float(value)) for value in values[:few]]

    body = laps.time("first encrypt", encrypt_ours, values=count)  # makes the key's table of powers
    opened = 8 * packing.slots
    short = paillier_packing.encrypt_vector(key.public_key, steps[:opened], packing=packing)
    sizes = {"encrypt": len(body) / count, "phe encrypt": (theirs.public_key.nsquare.bit_length() + 7) // 8}

    def contribute(name: str, client: Client) -> bytes:
        laps.time("encrypt", encrypt_ours, values=count)
        encrypted = laps.time("phe encrypt", encrypt_theirs, values=few)
        laps.time("decrypt", decrypt_ours, values=opened)
        laps.time("phe decrypt", lambda: [theirs.decrypt(each) for each in encrypted], values=few)
        reply = laps.time("protocol contribute", lambda: client.contribute(updates[name]), values=count)
        sizes["protocol contribute"] = len(reply) / count
        return reply

    repeat(benchmark, lambda: drive(session, next(numbers), updates, contribute), rounds=2)
    benchmark.extra_info.update(
        kind="phe",
        key_bits=key_bits,
        laps=laps.record(),
        bytes=sizes,
        gmp=bool(phe.util.HAVE_GMP),
    )


def nvflare_context(tenseal: Any, kind: Any) -> Any:
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=NVFLARE_DEGREE,
        coeff_mod_bit_sizes=list(NVFLARE_PRIMES),
        encryption_type=kind,
        n_threads=1,
    )
    context.global_scale = NVFLARE_SCALE
    return context


def test_tenseal(benchmark: BenchmarkFixture) -> None:
    tenseal = pytest.importorskip("tenseal")
    count = 100_000
    updates = draw_updates(3, count)
    (values, *_) = updates.values()
    steps = np.rint(values.astype(np.float64) * LARGEST).astype(np.int64)
    key = ckks.generate_key(ckks.choose_parameters(bound=FULL_TURN * LARGEST, max_summands=FULL_TURN))
    session = Session(CkksSum(max_clients=FULL_TURN), updates)
    contexts = {
        "symmetric": nvflare_context(tenseal, tenseal.ENCRYPTION_TYPE.SYMMETRIC),
        "public": nvflare_context(tenseal, tenseal.ENCRYPTION_TYPE.ASYMMETRIC),
    }
    laps, numbers = Laps(), iter(range(100))
    sizes: dict[str, float] = {}
    errors: dict[str, float] = {}

    def contribute(name: str, client: Client) -> bytes:
        body = laps.time("encrypt", lambda: key.encrypt_vector(steps), values=count)
        sizes["encrypt"] = len(body) / count
        laps.time(
            "decrypt",
            lambda: key.decrypt_vector(body, count=count, bound=key.parameters.bound),
            values=count,
        )
        for kind, context in contexts.items():
            peer_lap(kind, context)
        reply = laps.time("protocol contribute", lambda: client.contribute(updates[name]), values=count)
        sizes["protocol contribute"] = len(reply) / count
        return reply

    def peer_lap(kind: str, context: Any) -> None:
        data = laps.time(
            f"TenSEAL {kind} encrypt", lambda: tenseal.ckks_vector(context, values).serialize(), values=count
        )
        sizes[f"TenSEAL {kind} encrypt"] = len(data) / count
        opened = laps.time(
            f"TenSEAL {kind} decrypt",
            lambda: tenseal.ckks_vector_from(context, data).decrypt(),
            values=count,
        )
        errors[kind] = float(np.abs(np.array(opened) - values).max())

    def one_round() -> None:
        outcome = drive(session, next(numbers), updates, contribute)
        result = outcome.result
        if result is None:
            pytest.fail("CkksSum ended without a result for its clients")
        for client in session.clients.values():
            laps.time("protocol open", partial(client.open, result), values=count)

    repeat(benchmark, one_round, rounds=3)
    benchmark.extra_info.update(kind="tenseal", laps=laps.record(), bytes=sizes, errors=errors)


def test_tenseal_and_lattice(benchmark: BenchmarkFixture) -> None:
    """LatticeSum beside TenSEAL as NVFlare sets it, on 10**6 values; serialising is in all figures.

    Ours are whole steps: a client's from the update to its message; for the opening, the server's step for
    one client's vector (which checks and unpacks it) and its last step, which opens the sum. Theirs are
    encrypting into bytes, and decrypting from bytes.
    """
    tenseal = pytest.importorskip("tenseal")
    count = 10**6
    updates = draw_updates(3, count)
    (values, *_) = updates.values()
    session = Session(LatticeSum(max_clients=FULL_TURN), updates)
    server = time_server(session)
    context = nvflare_context(tenseal, tenseal.ENCRYPTION_TYPE.SYMMETRIC)
    laps, numbers = Laps(), iter(range(100))
    sizes: dict[str, float] = {}

    def contribute(name: str, client: Client) -> bytes:
        data = laps.time(
            "TenSEAL encrypt", lambda: tenseal.ckks_vector(context, values).serialize(), values=count
        )
        laps.time("TenSEAL decrypt", lambda: tenseal.ckks_vector_from(context, data).decrypt(), values=count)
        reply = laps.time("contribute", lambda: client.contribute(updates[name]), values=count)
        sizes.update({"TenSEAL encrypt": len(data) / count, "contribute": len(reply) / count})
        return reply

    def one_round() -> None:
        drive(session, next(numbers), updates, contribute)
        laps.note("open", values=count, cpu=min(server.vectors) + server.closings[-1])

    repeat(benchmark, one_round, rounds=3)
    benchmark.extra_info.update(kind="tenseal lattice", laps=laps.record(), bytes=sizes)
