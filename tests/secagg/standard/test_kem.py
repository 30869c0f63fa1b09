"""ML-KEM-768: published vectors, implicit rejection, keys out of range, and every wrong argument.

The vectors are Project Wycheproof's (github.com/C2SP/wycheproof, testvectors_v1, August 2026, Apache-2.0).
"""

import copy
import hashlib
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret
from secagg.standard.kem import (
    CIPHERTEXT_BYTES,
    ENCAPSULATION_KEY_BYTES,
    SEED_BYTES,
    SHARED_SECRET_BYTES,
    DecapsulationKey,
    encapsulate,
)

# mlkem_768_keygen_seed_test.json, 1 to 3, seeds of Kyber's third round: (seed, SHA-256 of the public key).
KEY_GENERATION = [
    (
        "7c9935a0b07694aa0c6d10e4db6b1add2fd81a25ccb148032dcd739936737f2d8626ed79d451140800e03b59b956f8210e55"
        "6067407d13dc90fa9e8b872bfb8f",
        "86adbca81f4fee893e2fb58fb98aa2fe188f501fed268d7f4056f8c05c4e53c4",
    ),
    (
        "d60b93492a1d8c1c7ba6fc0b733137f3406cee8110a93f170e7a78658af326d9003271531cf27285b8721ed5cb46853043b3"
        "46a66cba6cf765f1b0eaa40bf672",
        "858915faa304fb5beed7d653189707b34a27504dd254ffb12ad47392a0c1ad4a",
    ),
    (
        "4b622de1350119c45a9f2e2ef3dc5df50a759d138cdfbd64c81cc7cc2f513345e82fcc97ca60ccb27bf6938c975658aeb8b4"
        "d37cffbde25d97e561f36c219ade",
        "abdbf1e55c0f6132e2a7d4d5a765922004fce0aaa4ad71603203842aafab0750",
    ),
]

# mlkem_768_test.json, 2: a ciphertext that opens.
VALID_SEED = (
    "7c9935a0b07694aa0c6d10e4db6b1add2fd81a25ccb148032dcd739936737f2d8626ed79d451140800e03b59b956f8210e55"
    "6067407d13dc90fa9e8b872bfb8f"
)
VALID_CIPHERTEXT = (
    "c8391085b8d3ea9794212541b2914f08964d33521d3f67ad66096ebfb1f706424b49558f755b5625bae236f2e0079601c766"
    "f7d960808f7e2bb0c7a5e066ed346de628f8c57eebabbb0c22d911548463693ef3ce52a53f7ff415f00e657ae1c5a48fa5ec"
    "6e4be5cf462daffc84d2f6d5ff55dc9bbe8bb0d725ec64fd4cd4bd8dba0a844e8b5ce4b6a28934d7f7a050991fe185b506b4"
    "51dabfad52d52cb2114ca7d9a5cf986c8fdc1bc10ec0c1869e50c03c55a76192a1049aca636ba9020bdaa8d0f58c763b0b89"
    "845ca06d4c4ddc21433e16b9c62e44871fdbc05ba218af871fdd7dcfa464e60faa5265264ce1391bd9a8c5faa7626d5f159b"
    "9805b975710a3503a0b858a11c6a647cc0e19ac88b1be9056c95b4d2087d0951d1d2f4992491117e6347794ba54571ec49bb"
    "a71af3413d38a30bf5872248d1f6d07c86baf782e73d2637f043d341a00921857d8b21ddf3e1d6310036ed27af49e5de1b90"
    "0fe4de79808ff29f9570859612b15adc01fbb265b305b1e3a12ae419da5b74261fa284c101da3d8dca8b2e4521aca571ef44"
    "a058e844ff32b16d5aaea05f7f3af8e2ab16222e347662eddfb891d0ecc2a55c5638f9dde92d9a3d544a5f901ac501acd1ea"
    "6a010201fcb10ad702c425a94bdf5890d500a2a147eee1d1fcba8c3abe7c2dfe70f346f033d816a0b2791b4f0b2d956d9ee5"
    "971715399a5688302495e2e07c1c8c01527184bcd0c208bc159f2e13318c0bb3dd24a6a7fc849f83385ed4dba07fe1d7bd56"
    "40cc9ed5ccfdd68763cb0d0edf61b292177fc1d2d3c11dd0495056bcb12558aebcfddef9feb4aebc57afd9023c65cfe65a24"
    "e33f1b00111e92e63e011eaf0b212cf95743cd07f5189ece1f205b7f6fcb2e6b1961b5404cebe47c8cd13b8599d5b49e6d87"
    "eeda36e9b8fc4c00635896aa2b75896e336d1b612ee13db811e1f07e61748d920f4865f3f11741399dc6162c91ca168a0232"
    "9dff821d58198712dd558abb099b3a0baf9da1b730b2aa73bcf58d74f357b06f7211c804b6c8af16ff3509fad1d35b14bfdc"
    "ed7db8a6a25c48e5956480724daa057cd660b67ee3e472574182679d485838a6476eac02141075c812af7967ba7c9185cc2a"
    "bd2a4545b80f3d3104d58d654a57792dcfabbe9c0715e8de2ef81ef404c8168fd7a43efab3d448e686a088efd26a26159948"
    "926723d7eccc39e3c1b719cf8becb7be7e964f22cd8cb1b7e25e800ea97d60a64cc0bbd9cb407a3ab9f88f5e29169eeafd4e"
    "0322fde6590ae093ce8feeae98b622caa7556ff426c9e7a404ce69355830a7a67767a76c7d9a97b84bfcf50a02f75c235d2f"
    "9c671138049ffc7c8055926c03eb3fb87f9695185a42eca9a41655873d30a6b3bf428b246223484a8ff61ee3eeafff10e99c"
    "2c13a76284d063e56ab711a35a85b5383df81da23490f66e8ea3fcba067f5530c6541c2b8f74717c35023e7b9b3956c3ee2f"
    "f84ba03ccf4b4b5321b9240895481bc6d63c1693c1847852f8e97f50a133532ac3ee1e52d464"
)
VALID_SECRET = "e7184a0975ee3470878d2d159ec83129c8aec253d4ee17b4810311d198cd0368"

# mlkem_768_test.json, 1, from github.com/C2SP/CCTV: a ciphertext that does not re-encrypt to itself, but
# agrees with what it re-encrypts to up to a zero byte. The secret is that of implicit rejection.
REJECTED_SEED = (
    "cbfc4405d1b2a3a386c94c25e0f2d5f5ee92cb0388ff4d6aa04223086d51c3fd24752da14c9fc3b8ae0d9e4a8b1016b8d8fc"
    "69e229c03ea2ef08a4ae0cffc37f"
)
REJECTED_CIPHERTEXT = (
    "00e96c44eb5f5380d80b4cb05d608971a28fbe838b912b558bf9676c6c67c9692ed6ea063fc47b70d5d6004825c269b9cb8e"
    "68b5728d67f44844d97686a11154e3cbd4a6f9e47524d93d851bdce480d7762ded09be53d17cce3ee28dc5a06911c062b99b"
    "218355dd5822108c55e2c67f7ea0b74b6189b33b4589d8ff9d0c867d13edaaf1c5f724675320beda3e6acc673c048fa04a1b"
    "30f899227d5a555e08a412a47b7db75eb118a8844a71b186880426f6bb6e77186d18e753cbcce93c9fb76c729875b4d473ee"
    "ca8dab9941969faef04df9ce3178e7341eab416d28bb7aee12bfb8f4c3df814eff45a0187329079acfc41a8e8dba7b08d111"
    "f02e37a1d2b69e57eef808fcc6ae23385534a420a93dfb6a95c73e2f1016177c4fe9d3ced769e277293aaceded6d07efc789"
    "0eaa885bd1e73f9e5da2b9cfda0d44cbc9090705ac2ce3e7bcd7775b593c706e45ddc97d3a65d9b7e73673f9473df5bfec68"
    "9671f73e7f6ee77c730a8ebda1f0b2c112a71904d6f28a51d8d479f8323fb485e722f5c4d5857e95989a9cbaf273efd04fc3"
    "cbde98baa9969e095e88accecfbd12ef2155497a5b15fe91a70d1106b91a568363bfc2d6736cc8138cbc41ddf1e54fd40511"
    "e27d89e2c26c027b63c156e2bbb998faaed3d72186f0cc626dad39a782dcda2087fd13a9498e10b41b685646a227ea1166a5"
    "632c195983f4aba2b718b4074030d57126d34c38349892007acbea9e393b967dc3146b270f080a1f0bee90d65a095a6352a7"
    "718ed1717a8025a2bd38c66d120baf4247676a1fe044a57ce268c078f8ff46cc26fe4f9c7a03d6467adacb8418d26273662b"
    "ce1f7bc00b906e0088e95dc0fb419e2232e85aac77b9e7cd563e604de5e1d3e9693dcd3b19865cf4250773691e7e0af9c275"
    "5cd31f49d1f96708f3ba2f0b98184525abb869e12d5cea0ac1740181a875035300b05a54b8d42ee3b4ae92b06e43cd807e2b"
    "096c977f23c61ef8c989c52ed83754076dea1323f639250bef61bdf903bf7961cec89ba6942d9d0647ac9c8195d93ed8abce"
    "df25754644035719a5a0a1c8c0798912726a9a8258e4c10ae7485322ed9ba331f6f090c4b492a4fcf53d753cd34f28ec0443"
    "fce0724f43c89a3942169d5099a8f7430f38691ebce2e3fe4f600d82c7ccedf60673f8e5d4c1a9f84b8b5b23f5ed63defb6a"
    "7205e0a8b105bdc6ff4568fc78cb4456b02fedb7f4c48f6fd6b69216a3319821039db40e19a31a0b0c9d471d5a7a73865d26"
    "f8be3595525b1ec4a8579efd07ea98e2602e2bffdfd8febc5c7b4c736d326b5030ccc6faf9420a9c156a8f4516b9fff67545"
    "9dfdcd4ef85d7adbdffd60f4a39628e399cc752c2e99ab2f431dc765e7c9d206bfe32649fbef4ef48b1d7936fc74766d7243"
    "50ee2245a8d5f23fbc6c7ed8b57168ce1e864e49d7f8c475dcda140bd42473825b3c72eb8c54780188813011e1962a503f9b"
    "516e13226de6375b204733b0192183c8f55e870e61cf8947c3191790bc0b657bc43aebc9d86c"
)
REJECTED_SECRET = "76c10bb1d86d96d7eb18e298363e51f7728e113f455df7d15017940ed3541451"


def key(seed: str) -> DecapsulationKey:
    return DecapsulationKey(Secret(bytes.fromhex(seed)))


@pytest.fixture(scope="module")
def ours() -> DecapsulationKey:
    return DecapsulationKey(Secret(SeededEntropy(b"a decapsulation key")(SEED_BYTES)))


@pytest.mark.parametrize(("seed", "digest"), KEY_GENERATION)
def test_published_key_generation(seed: str, digest: str) -> None:
    assert hashlib.sha256(key(seed).encapsulation_key).hexdigest() == digest


def test_published_decapsulation() -> None:
    secret = key(VALID_SEED).decapsulate(bytes.fromhex(VALID_CIPHERTEXT))
    assert secret.reveal().hex() == VALID_SECRET


def test_published_implicit_rejection() -> None:
    secret = key(REJECTED_SEED).decapsulate(bytes.fromhex(REJECTED_CIPHERTEXT))
    assert secret.reveal().hex() == REJECTED_SECRET
    # FIPS 203, Algorithm 18: J(z || c), which nobody without z can tell from a secret that was sent.
    z = bytes.fromhex(REJECTED_SEED)[32:]
    assert hashlib.shake_256(z + bytes.fromhex(REJECTED_CIPHERTEXT)).hexdigest(32) == REJECTED_SECRET


@settings(max_examples=30)
@given(seed=st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES))
def test_round_trip(seed: bytes) -> None:
    ours = DecapsulationKey(Secret(seed))
    secret, ciphertext = encapsulate(ours.encapsulation_key)
    assert len(ours.encapsulation_key) == ENCAPSULATION_KEY_BYTES
    assert (len(secret), len(ciphertext)) == (SHARED_SECRET_BYTES, CIPHERTEXT_BYTES)
    assert ours.decapsulate(ciphertext) == secret
    # Nothing but the seed is in a key, and decapsulation draws nothing.
    assert DecapsulationKey(Secret(seed)).decapsulate(ciphertext) == secret


def test_each_half_of_the_seed_matters(ours: DecapsulationKey) -> None:
    seed = SeededEntropy(b"a decapsulation key")(SEED_BYTES)
    secret, ciphertext = encapsulate(ours.encapsulation_key)
    other_d = DecapsulationKey(Secret(bytes(32) + seed[32:]))
    assert other_d.encapsulation_key != ours.encapsulation_key
    # z is the key of implicit rejection alone: what opens does not depend on it, what is rejected does.
    other_z = DecapsulationKey(Secret(seed[:32] + bytes(32)))
    assert other_z.encapsulation_key == ours.encapsulation_key
    assert other_z.decapsulate(ciphertext) == secret
    assert other_z.decapsulate(bytes(CIPHERTEXT_BYTES)) != ours.decapsulate(bytes(CIPHERTEXT_BYTES))


def test_each_encapsulation_is_fresh(ours: DecapsulationKey) -> None:
    made = [encapsulate(ours.encapsulation_key) for _ in range(20)]
    assert len({ciphertext for _, ciphertext in made}) == 20
    assert len({secret.reveal() for secret, _ in made}) == 20


def test_tampered_ciphertext_gives_another_secret_and_no_error(ours: DecapsulationKey) -> None:
    secret, ciphertext = encapsulate(ours.encapsulation_key)
    opened = set()
    for position in range(CIPHERTEXT_BYTES):
        tampered = bytearray(ciphertext)
        tampered[position] ^= 1 << (position % 8)
        opened.add(ours.decapsulate(bytes(tampered)).reveal())
    assert len(opened) == CIPHERTEXT_BYTES
    assert secret.reveal() not in opened


def test_another_key_opens_another_secret(ours: DecapsulationKey) -> None:
    secret, ciphertext = encapsulate(ours.encapsulation_key)
    theirs = DecapsulationKey(Secret(bytes(SEED_BYTES)))
    assert theirs.decapsulate(ciphertext) != secret


@pytest.mark.parametrize("coefficient", [0, 1, 255, 256, 767])
def test_a_coefficient_out_of_range_is_refused(ours: DecapsulationKey, coefficient: int) -> None:
    """FIPS 203, section 7.2: 12-bit fields, little-endian, of which 3329 to 4095 encode nothing."""
    packed = int.from_bytes(ours.encapsulation_key[:1152], "little")
    cleared = packed & ~(0xFFF << (12 * coefficient))
    for value in (0, 3328):
        packed = cleared | value << (12 * coefficient)
        secret, _ = encapsulate(packed.to_bytes(1152, "little") + ours.encapsulation_key[1152:])
        assert len(secret) == SHARED_SECRET_BYTES
    for value in (3329, 3330, 4095):
        packed = cleared | value << (12 * coefficient)
        with pytest.raises(VerificationError, match="modulus check"):
            encapsulate(packed.to_bytes(1152, "little") + ours.encapsulation_key[1152:])


@pytest.mark.parametrize(
    "seed", [bytes(64), bytearray(64), "s" * 64, None, Secret(b""), Secret(bytes(63)), Secret(bytes(65))]
)
def test_wrong_seed(seed: object) -> None:
    with pytest.raises(ParameterError, match="Secret of 64 bytes"):
        DecapsulationKey(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ciphertext",
    [
        b"",
        bytes(CIPHERTEXT_BYTES - 1),
        bytes(CIPHERTEXT_BYTES + 1),
        bytearray(CIPHERTEXT_BYTES),
        memoryview(bytes(CIPHERTEXT_BYTES)),
        "c" * CIPHERTEXT_BYTES,
        Secret(bytes(CIPHERTEXT_BYTES)),
        None,
    ],
)
def test_wrong_ciphertext(ours: DecapsulationKey, ciphertext: object) -> None:
    with pytest.raises(ParameterError, match=f"{CIPHERTEXT_BYTES} bytes of type bytes"):
        ours.decapsulate(ciphertext)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "public",
    [
        b"",
        bytes(ENCAPSULATION_KEY_BYTES - 1),
        bytes(ENCAPSULATION_KEY_BYTES + 1),
        bytearray(ENCAPSULATION_KEY_BYTES),
        memoryview(bytes(ENCAPSULATION_KEY_BYTES)),
        "k" * ENCAPSULATION_KEY_BYTES,
        Secret(bytes(ENCAPSULATION_KEY_BYTES)),
        None,
    ],
)
def test_wrong_encapsulation_key(public: object) -> None:
    with pytest.raises(ParameterError, match=f"{ENCAPSULATION_KEY_BYTES} bytes of type bytes"):
        encapsulate(public)  # type: ignore[arg-type]


def test_a_key_shows_nothing_and_stays_here(ours: DecapsulationKey) -> None:
    assert repr(ours) == "DecapsulationKey(...)"
    assert not hasattr(ours, "__dict__")
    with pytest.raises(TypeError, match="not pickled or copied"):
        pickle.dumps(ours)
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            duplicate(ours)


def test_a_raw_seed_given_by_mistake_stays_out_of_the_error() -> None:
    with pytest.raises(ParameterError) as caught:
        DecapsulationKey(b"a very secret seed" * 4)  # type: ignore[arg-type]
    assert "very secret" not in str(caught.value)
