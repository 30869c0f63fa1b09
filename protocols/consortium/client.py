"""The client of the consortium protocol.

One of the clients, the custodian, makes the key and seals it to each other client; the server relays what it
cannot read. Each round a client sends its encrypted vector with a tag. It opens a sum only after it has
checked who is said to be in it and how many, and returns nothing unless the tag binds the sum, that list, the
round and the model (ATTACKS C4). It opens one result a round.

The tag travels beside the ciphertext and not in its plaintext: opened limbs of it would tell more than the
sum (ATTACKS C8), while the sum of tags over a prime field tells nothing that the sum of vectors does not.

Against a server that reads everything. It falls, whole, to a client that colludes with the server.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from protocols.consortium.messages import (
    AdvertiseKeys,
    Announcement,
    Collect,
    ConsortiumSecret,
    Contribution,
    Delivery,
    Distribute,
    DistributeKey,
    Result,
    SignedDistribution,
    SignedKey,
    key_id_of,
    mac_context,
    signer,
)
from protocols.consortium.scheme import Key, Scheme
from protocols.identity import ClientId
from protocols.interface import Sum
from protocols.machine.suite import Asked, ClientContext, ClientSteps, Replied, UnknownKeyError, check_request
from protocols.machine.summand import Summand
from protocols.messages.schema import U32, U64, Key32, decode, encode
from secagg import labels
from secagg.entropy import draw
from secagg.errors import DecodeError, ParameterError, PeerViolation, VerificationError
from secagg.secret import Secret
from secagg.standard.aead import open_sealed, seal
from secagg.standard.agreement import agree, public_key
from secagg.standard.kdf import hkdf
from secagg.vectors.linear_mac import KEY_BYTES, TAG_BYTES, MacKey
from secagg.wire import Buffer, Writer

__all__ = ["ConsortiumClientSteps"]

FROM_SERVER: Final = "server"
KEPT_ROUNDS: Final = 8
"""Rounds whose models a client remembers; a server keeps results of half as many for those who are away."""
MAXIMUM_FAILED_OPENINGS: Final = 8
"""Whether a doctored result opens may tell the server something of the key, a bit or so each time (Li and
Micciancio's attack in its reaction form), so a client stops opening under a key that failed this often."""
RENEWED_AFTER: Final = MAXIMUM_FAILED_OPENINGS // 2
"""Failures after which a client asks for another key, so that few come to the maximum."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """Nothing was said yet."""


@dataclass(frozen=True, slots=True)
class Advertised:
    """A channel key is out; the consortium's key will be sealed to it, in this round or a later one."""

    channel: Secret


@dataclass(frozen=True, slots=True)
class History:
    """What a client remembers whatever key it is given.

    Attributes:
        answered: the model's digest by round, of the latest rounds to which it contributed.
        forgotten: in rounds below this it may have answered a model that it no longer knows.
        failures: results that did not verify, by the id of their key; a key that comes back brings its own.
    """

    answered: dict[U64, Key32] = field(default_factory=dict)
    forgotten: U64 = 0
    failures: dict[Key32, U32] = field(default_factory=dict)

    def with_round(self, round: int, model: bytes) -> "History":
        """This, and a contribution that answered this model."""
        answered = {**self.answered, round: model}
        latest = sorted(answered)[-KEPT_ROUNDS:]
        forgotten = max([self.forgotten, *(each + 1 for each in answered.keys() - set(latest))])
        return replace(self, answered={each: answered[each] for each in latest}, forgotten=forgotten)

    def with_failure(self, key_id: bytes) -> "History":
        """This, and a result under this key that did not verify."""
        return replace(self, failures={**self.failures, key_id: self.failures.get(key_id, 0) + 1})


@dataclass(frozen=True, slots=True)
class Keyed:
    """Holds the consortium's key, and the channel key under which it would take another one."""

    key_id: Key32
    secret: Secret
    channel: Secret
    history: History

    @property
    def failures(self) -> int:
        """Results under this key that did not verify."""
        return self.history.failures.get(self.key_id, 0)


@dataclass(frozen=True, slots=True)
class Collecting:
    """Asked for an update. `minimum`: the fewest contributors that it is given for."""

    keyed: Keyed
    length: U64
    model: Key32
    minimum: U32


class ConsortiumClientSteps(ClientSteps):
    """The table of legal (state, request) pairs, over one scheme."""

    states: ClassVar[tuple[type, ...]] = (Fresh, Advertised, Keyed, Collecting)

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self._opened: tuple[Secret, Key] | None = None  # an opened key has tables; they are built once

    def idle(self, state: Any) -> Any:
        return state.keyed if isinstance(state, Collecting) else state

    def react(self, context: ClientContext, state: Any, request: Any) -> Replied | Asked:
        check_request(context, parameters=request.parameters, cohort=request.cohort, length=request.length)
        match state, request:
            case Fresh() | Advertised() | Keyed(), Announcement():
                return self._advertise(context, state)
            case Advertised() | Keyed(), Distribute():
                return self._distribute(context, state, request)
            case Fresh() | Advertised() | Keyed(), Collect():
                return self._prepare(context, state, request)
        raise PeerViolation(
            f"{type(request).__name__} came where this client is {type(state).__name__}", culprit=FROM_SERVER
        )

    # Set-up

    def _advertise(self, context: ClientContext, state: Fresh | Advertised | Keyed) -> Replied:
        # A client that holds a key may be asked again: a custodian whose distribution got lost on its way
        # holds one that nobody else has.
        channel = Secret(draw(context.entropy, 32)) if isinstance(state, Fresh) else state.channel
        public = public_key(channel)
        signed = SignedKey(context.suite.digest, context.session, context.roster.digest, context.me, public)
        signature = context.identity.key.sign(encode(signed), label=labels.CONSORTIUM_ADVERTISEMENT)
        following = state if isinstance(state, Keyed) else Advertised(channel)
        return Replied(following, AdvertiseKeys(public, signature))

    def _distribute(self, context: ClientContext, state: Advertised | Keyed, request: Distribute) -> Replied:
        """Seals the key to each newcomer; makes it first if there is none."""
        newcomers = {client: key for client, key in request.newcomers.items() if client != context.me}
        for client, advertised in newcomers.items():
            signed = SignedKey(
                context.suite.digest, context.session, context.roster.digest, client, advertised.channel_key
            )
            context.roster.verify(
                client, advertised.signature, encode(signed), label=labels.CONSORTIUM_ADVERTISEMENT
            )
        if request.key_id is not None:
            if not isinstance(state, Keyed) or state.key_id != request.key_id:
                raise PeerViolation("a key is to be passed on that this client lacks", culprit=FROM_SERVER)
            keyed = state
        else:
            if len(newcomers) + 1 < (least := _minimum(context, request.cohort)):
                raise PeerViolation(
                    f"a key for {len(newcomers) + 1} clients; this client shares one from {least} on",
                    culprit=FROM_SERVER,
                )
            keyed = self._generate(context, state)
        secret = decode(ConsortiumSecret, keyed.secret.reveal())
        public = self._key(secret.private_key).public()
        channel = Secret(draw(context.entropy, 32))
        distribution = SignedDistribution(
            context.suite.digest,
            context.session,
            context.roster.digest,
            context.me,
            keyed.key_id,
            hashlib.sha256(public).digest(),
            public_key(channel),
        )
        signature = context.identity.key.sign(encode(distribution), label=labels.CONSORTIUM_SEAL)
        sealed = {
            client: seal(
                _seal_key(channel, advertised.channel_key, distribution, receiver=client),
                keyed.secret.reveal(),
                associated_data=encode(distribution),
                entropy=context.entropy,
            )
            for client, advertised in newcomers.items()
        }
        return Replied(keyed, DistributeKey(keyed.key_id, public, public_key(channel), sealed, signature))

    def _generate(self, context: ClientContext, state: Advertised | Keyed) -> Keyed:
        key = self._scheme.generate(context.entropy)
        mac_key = Secret(draw(context.entropy, KEY_BYTES))
        encoded = encode(ConsortiumSecret(mac_key, key.encode()))
        self._opened = (key.encode(), key)
        key_id = key_id_of(session=context.session, encoded_secret=encoded)
        return Keyed(key_id, Secret(encoded), state.channel, _history(state))

    def _accept(
        self, context: ClientContext, state: Advertised | Keyed, key_id: bytes, delivery: Delivery
    ) -> Keyed:
        """The consortium's key, if a member of the roster sealed it to this client.

        Whoever made a delivery that is signed, and yet no key, is accused. It is one word against another:
        what could prove it is the channel key, which opens the consortium's.
        """
        distribution = SignedDistribution(
            context.suite.digest,
            context.session,
            context.roster.digest,
            delivery.custodian,
            key_id,
            hashlib.sha256(delivery.public).digest(),
            delivery.channel_key,
        )
        context.roster.verify(
            delivery.custodian, delivery.signature, encode(distribution), label=labels.CONSORTIUM_SEAL
        )
        try:
            encoded = self._unsealed(context, state, distribution, delivery)
        except (VerificationError, DecodeError) as error:
            raise PeerViolation(
                f"what {delivery.custodian!r} sealed is no key: {error}", culprit=delivery.custodian
            ) from None
        return Keyed(key_id, encoded, state.channel, _history(state))

    def _unsealed(
        self,
        context: ClientContext,
        state: Advertised | Keyed,
        distribution: SignedDistribution,
        delivery: Delivery,
    ) -> Secret:
        """The encoded `ConsortiumSecret` in a delivery."""
        seal_key = _seal_key(state.channel, delivery.channel_key, distribution, receiver=context.me)
        encoded = open_sealed(seal_key, delivery.sealed, associated_data=encode(distribution))
        if key_id_of(session=context.session, encoded_secret=encoded.reveal()) != distribution.key_id:
            raise VerificationError("the key that was sealed is another one than was announced")
        secret = decode(ConsortiumSecret, encoded.reveal())
        if len(secret.mac_key) != KEY_BYTES:
            raise VerificationError(f"a MAC key of {len(secret.mac_key)} bytes, not {KEY_BYTES}")
        if self._key(secret.private_key).public() != delivery.public:
            raise VerificationError("the key that was sealed does not belong to the server's public part")
        return encoded

    def _key(self, private: Secret) -> Key:
        if self._opened is None or self._opened[0] != private:
            self._opened = (private, self._scheme.open_key(private))
        return self._opened[1]

    # Every round

    def _prepare(self, context: ClientContext, state: Fresh | Advertised | Keyed, request: Collect) -> Asked:
        if isinstance(state, Keyed) and (state.key_id == request.key_id or request.delivery is None):
            keyed = state
        elif not isinstance(state, Fresh) and request.delivery is not None:
            keyed = self._accept(context, state, request.key_id, request.delivery)
        else:
            raise PeerViolation("an update was asked for, and this client has no key", culprit=FROM_SERVER)
        if keyed.key_id != request.key_id:
            raise PeerViolation("the server works with another key than this client", culprit=FROM_SERVER)
        model = hashlib.sha256(request.model).digest()
        minimum = _minimum(context, request.cohort)
        return Asked(Collecting(keyed, request.length, model, minimum), request.length, request.model)

    def fold(self, context: ClientContext, state: Collecting, summand: Summand) -> Replied:
        keyed = state.keyed
        secret = decode(ConsortiumSecret, keyed.secret.reveal())
        values = summand.integers()
        tag = MacKey(secret.mac_key).tag(
            values,
            signer=signer(context.me, state.minimum),
            context=_context(
                context, round=context.round, length=state.length, model=state.model, head=context.head
            ),
        )
        body = self._key(secret.private_key).encrypt(values, entropy=context.entropy)
        message = Contribution(
            keyed.key_id,
            state.model,
            context.head,
            state.minimum,
            keyed.failures >= RENEWED_AFTER,
            tag.to_bytes(TAG_BYTES, "big"),
            memoryview(body),
        )
        history = keyed.history.with_round(context.round, state.model)
        return Replied(replace(keyed, history=history), message)

    def common_secret(self, state: Any) -> Secret | None:
        keyed = self.idle(state)
        return decode(ConsortiumSecret, keyed.secret.reveal()).mac_key if isinstance(keyed, Keyed) else None

    def round_of(self, context: ClientContext, result: Buffer) -> int:
        return decode(Result, result).round

    def head_of(self, context: ClientContext, result: Buffer) -> bytes:
        return decode(Result, result).head

    def failed(self, state: Any) -> Any:
        keyed = self.idle(state)
        failed = replace(keyed, history=keyed.history.with_failure(keyed.key_id))
        return replace(state, keyed=failed) if isinstance(state, Collecting) else failed

    def open(self, context: ClientContext, state: Any, result: Buffer) -> Sum:
        given, keyed = decode(Result, result), self.idle(state)
        if not isinstance(keyed, Keyed):
            raise ParameterError("this client has no key yet; it gets one in a round that it takes part in")
        if given.key_id != keyed.key_id:
            raise UnknownKeyError("a sum under another key than this client holds")
        _check_result(context, keyed, given)
        surface = context.suite.surface
        secret = decode(ConsortiumSecret, keyed.secret.reveal())
        count = surface.elements(given.length)
        try:
            values = self._key(secret.private_key).decrypt(
                given.vector, count=count, summands=len(given.contributors)
            )
        except ParameterError as error:  # a length or a number of summands that the scheme does not carry
            raise DecodeError(str(error)) from None
        MacKey(secret.mac_key).verify(
            values,
            int.from_bytes(given.tag, "big"),
            signers=[signer(client, minimum) for client, minimum in given.contributors.items()],
            context=_context(
                context, round=given.round, length=given.length, model=given.model, head=given.head
            ),
        )
        return surface.decode(values.astype(surface.ring.dtype), frozenset(given.contributors))


def _check_result(context: ClientContext, keyed: Keyed, given: Result) -> None:
    """What can be said without the key. The tag will bind the list, so it is checked before opening."""
    if keyed.failures >= MAXIMUM_FAILED_OPENINGS:
        raise DecodeError(f"its key is used no more: {keyed.failures} results under it did not verify")
    if given.round < keyed.history.forgotten:
        raise DecodeError("a sum of a round so long ago that this client forgot which model it answered then")
    if keyed.history.answered.get(given.round, given.model) != given.model:
        raise DecodeError("a sum that answers another model than this client did in that round")
    if not given.contributors.keys() <= set(context.roster.members):
        raise DecodeError("a contributor that is not in the roster")
    least = max(context.min_contributors, *given.contributors.values()) if given.contributors else 1
    if not least <= len(given.contributors) <= context.suite.max_clients:
        raise DecodeError(f"a sum of {len(given.contributors)}; it is opened from {least} on")
    try:
        context.plan(len(given.contributors))  # so many leave two honest ones, whatever cohort was asked
    except ParameterError as error:
        raise DecodeError(f"a sum of {len(given.contributors)}: {error}") from None
    if not 1 <= given.length <= context.max_length:
        raise DecodeError(f"a sum of {given.length} values")
    try:
        context.suite.surface.check_length(given.length)
    except ParameterError as error:
        raise DecodeError(str(error)) from None


def _history(state: Advertised | Keyed) -> History:
    """What outlives a change of keys."""
    return state.history if isinstance(state, Keyed) else History()


def _minimum(context: ClientContext, cohort: tuple[ClientId, ...]) -> int:
    """The fewest contributors that this client's policy and its plan for this cohort allow."""
    return max(context.min_contributors, context.plan(len(cohort)).min_survivors)


def _context(context: ClientContext, *, round: int, length: int, model: bytes, head: bytes) -> bytes:
    return mac_context(
        session=context.session,
        roster=context.roster.digest,
        round=round,
        length=length,
        model=model,
        head=head,
        parameters=context.suite.digest,
    )


def _seal_key(
    private: Secret, public: bytes, distribution: SignedDistribution, *, receiver: ClientId
) -> Secret:
    """The AEAD key for what the custodian seals to `receiver`."""
    place = Writer().fixed(hashlib.sha256(encode(distribution)).digest()).text(receiver).finish()
    return hkdf(agree(private, public), label=labels.CONSORTIUM_CHANNEL, context=place)
