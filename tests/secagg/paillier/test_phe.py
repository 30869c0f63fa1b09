"""Interop with phe: keys and ciphertexts in both directions, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest

from secagg.entropy import SeededEntropy
from secagg.errors import MissingExtraError, ParameterError
from secagg.paillier import phe as interop
from secagg.paillier.packing import Packing, decrypt_vector, encrypt_vector
from secagg.paillier.scheme import generate_key

phe = pytest.importorskip("phe")

OURS = generate_key(key_bits=2048, entropy=SeededEntropy(b"test_paillier_phe"))
THEIR_PUBLIC, THEIR_PRIVATE = phe.generate_paillier_keypair(n_length=2048)


class TestOurKeyInPhe:
    @pytest.mark.parametrize("plaintext", [0, 1, 12345, 2**600], ids=["0", "1", "12345", "2^600"])
    def test_both_directions(self, plaintext: int) -> None:
        theirs = interop.to_phe_private_key(OURS)
        ciphertext = OURS.public_key.encrypt_int(plaintext)
        assert theirs.decrypt(interop.to_phe_ciphertext(OURS.public_key, ciphertext)) == plaintext
        encrypted = interop.to_phe_public_key(OURS.public_key).encrypt(plaintext)
        assert OURS.decrypt_int(interop.from_phe_ciphertext(encrypted)) == plaintext

    def test_negative_numbers_are_residues(self) -> None:
        theirs = interop.to_phe_private_key(OURS)
        ours = OURS.public_key
        assert theirs.decrypt(interop.to_phe_ciphertext(ours, ours.encrypt_int(ours.n - 5))) == -5
        encrypted = interop.to_phe_public_key(ours).encrypt(-5)
        assert OURS.decrypt_int(interop.from_phe_ciphertext(encrypted)) == ours.n - 5

    def test_sums_of_both_kinds(self) -> None:
        theirs = interop.to_phe_private_key(OURS)
        ours = interop.to_phe_ciphertext(OURS.public_key, OURS.public_key.encrypt_int(40))
        mixed = ours + theirs.public_key.encrypt(2)
        assert theirs.decrypt(mixed) == 42
        assert OURS.decrypt_int(interop.from_phe_ciphertext(mixed)) == 42


class TestTheirKeyHere:
    def test_both_directions(self) -> None:
        public = interop.from_phe_public_key(THEIR_PUBLIC)
        private = interop.from_phe_private_key(THEIR_PRIVATE)
        assert private.public_key == public
        assert public.h_s is None
        ciphertext = public.encrypt_int(123)
        assert private.decrypt_int(ciphertext) == 123
        assert THEIR_PRIVATE.decrypt(interop.to_phe_ciphertext(public, ciphertext)) == 123
        assert private.decrypt_int(interop.from_phe_ciphertext(THEIR_PUBLIC.encrypt(7))) == 7

    def test_packed_vectors(self) -> None:
        private = interop.from_phe_private_key(THEIR_PRIVATE)
        packing = Packing(key_bits=2048, bound=100, max_summands=1)
        vector = np.arange(-100, 101)
        body = encrypt_vector(interop.from_phe_public_key(THEIR_PUBLIC), vector, packing=packing)
        opened = decrypt_vector(private, body, packing=packing, count=len(vector), summands=1)
        np.testing.assert_array_equal(opened, vector)

    def test_round_trip_of_keys(self) -> None:
        assert interop.to_phe_public_key(interop.from_phe_public_key(THEIR_PUBLIC)) == THEIR_PUBLIC
        assert interop.to_phe_private_key(interop.from_phe_private_key(THEIR_PRIVATE)) == THEIR_PRIVATE
        assert (
            interop.from_phe_private_key(interop.to_phe_private_key(OURS)).reveal_primes()
            == OURS.reveal_primes()
        )


class TestRefused:
    # ATTACKS C5.
    @pytest.mark.parametrize("n_length", [512, 1024])
    def test_short_keys(self, n_length: int) -> None:
        public, private = phe.generate_paillier_keypair(n_length=n_length)
        with pytest.raises(ParameterError, match="2048"):
            interop.from_phe_public_key(public)
        with pytest.raises(ParameterError, match="2048"):
            interop.from_phe_private_key(private)

    # ATTACKS C7.
    def test_float_encodings(self) -> None:
        with pytest.raises(ParameterError, match="exponent"):
            interop.from_phe_ciphertext(THEIR_PUBLIC.encrypt(0.5))

    def test_a_ciphertext_that_phe_left_bare_is_randomised(self) -> None:
        bare = THEIR_PUBLIC.encrypt(5, r_value=1)
        assert bare.ciphertext(be_secure=False) == 1 + 5 * THEIR_PUBLIC.n
        doubled = bare * 2
        passed = interop.from_phe_ciphertext(doubled)
        assert passed != 1 + 10 * THEIR_PUBLIC.n
        assert interop.from_phe_private_key(THEIR_PRIVATE).decrypt_int(passed) == 10

    @pytest.mark.parametrize("value", [None, 5, "key", OURS, OURS.public_key])
    def test_wrong_types(self, value: object) -> None:
        for convert in (
            interop.from_phe_public_key,
            interop.from_phe_private_key,
            interop.from_phe_ciphertext,
        ):
            with pytest.raises(ParameterError):
                convert(value)

    @pytest.mark.parametrize(
        "ciphertext",
        [0, -1, OURS.public_key.n**2, 1.0, None, True],
        ids=["0", "-1", "n²", "float", "None", "bool"],
    )
    def test_bad_ciphertexts(self, ciphertext: int) -> None:
        with pytest.raises(ParameterError):
            interop.to_phe_ciphertext(OURS.public_key, ciphertext)


class TestOptional:
    def test_a_missing_phe_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "phe", None)
        with pytest.raises(MissingExtraError, match=r"secagg\[phe\]"):
            interop.to_phe_public_key(OURS.public_key)

    def test_importing_does_not_import_phe(self) -> None:
        code = "import sys, secagg.paillier.packing, secagg.paillier.phe; sys.exit('phe' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
