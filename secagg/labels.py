"""Every domain-separation label, in one file.

A derived key is bound to what it is for by its label, so that no two uses of one secret can meet. A label
names the library, its wire version and the purpose. Changing one changes every key that depends on it:
the pinned test vectors will say so.
"""

from typing import Final

_PREFIX: Final = b"secagg/1/"

# Randomness
SEEDED_ENTROPY: Final = _PREFIX + b"seeded entropy"

# State and records
STATE_SEAL: Final = _PREFIX + b"state seal"
TRANSCRIPT: Final = _PREFIX + b"transcript"
ROUND_RECORD: Final = _PREFIX + b"round record"
RELEASE: Final = _PREFIX + b"release"
PARAMETERS: Final = _PREFIX + b"parameters"
ROSTER: Final = _PREFIX + b"roster"

# Membership: keys that people hold, and rosters that they sign
ROSTER_VERSION: Final = _PREFIX + b"roster version"
ROSTER_SIGNATURE: Final = _PREFIX + b"roster signature"
SESSION: Final = _PREFIX + b"session"
KEY_FINGERPRINT: Final = _PREFIX + b"key fingerprint"
PUBLIC_IDENTITY: Final = _PREFIX + b"public identity"

# Masking (Bonawitz et al. CCS'17)
KEY_ADVERTISEMENT: Final = _PREFIX + b"key advertisement"
CHANNEL: Final = _PREFIX + b"channel"
MASK_KEY: Final = _PREFIX + b"mask key"
PAIR_MASK: Final = _PREFIX + b"pair mask"
SELF_MASK: Final = _PREFIX + b"self mask"
SHARE_COMMITMENT: Final = _PREFIX + b"share commitment"
DEALING: Final = _PREFIX + b"dealing"
SURVIVORS: Final = _PREFIX + b"survivors"
MASKED_INPUT: Final = _PREFIX + b"masked input"
MASK_ENCAPSULATION: Final = _PREFIX + b"mask encapsulation key"
FIRST_SEAL: Final = _PREFIX + b"first seal"
RATCHET: Final = _PREFIX + b"ratchet"
PAIR_SECRET: Final = _PREFIX + b"pair secret"
PAIR_SEAL: Final = _PREFIX + b"pair seal"
GRAPH_SEED: Final = _PREFIX + b"graph seed"
GRAPH_ORDER: Final = _PREFIX + b"graph order"
MERKLE_LEAF: Final = _PREFIX + b"merkle leaf"
MERKLE_NODE: Final = _PREFIX + b"merkle node"

# Consortium key (CKKS and Paillier)
CONSORTIUM_ADVERTISEMENT: Final = _PREFIX + b"consortium advertisement"
CONSORTIUM_CHANNEL: Final = _PREFIX + b"consortium channel"
CONSORTIUM_SEAL: Final = _PREFIX + b"consortium seal"
CONSORTIUM_KEY_ID: Final = _PREFIX + b"consortium key id"
CONSORTIUM_MAC_FORM: Final = _PREFIX + b"consortium mac linear form"
CONSORTIUM_MAC_PAD: Final = _PREFIX + b"consortium mac pad"

# Training
MODEL_MANIFEST: Final = _PREFIX + b"model manifest"
SHOWN_RECORDS: Final = _PREFIX + b"shown records"
SHOWN_RECORD: Final = _PREFIX + b"shown record"
MEMBER_HELLO: Final = _PREFIX + b"member's hello"
MEMBER_STATE: Final = _PREFIX + b"member's state"
ADMISSION: Final = _PREFIX + b"admission"
REHEARSED: Final = _PREFIX + b"rehearsed identity"
PURPOSE: Final = _PREFIX + b"purpose of a session"
ANSWERED: Final = _PREFIX + b"what an update answers"
SUMS_APPLIED: Final = _PREFIX + b"sums applied"
SCALES_APPLIED: Final = _PREFIX + b"scales applied"
OWN_COPY: Final = _PREFIX + b"own copy"
ROTATION_SIGNS: Final = _PREFIX + b"rotation signs"
STOCHASTIC_ROUNDING: Final = _PREFIX + b"stochastic rounding"

# Handing a copy over
HANDOVER_REQUEST: Final = _PREFIX + b"handover request"
HANDOVER_ANSWER: Final = _PREFIX + b"handover answer"
HANDOVER_VOUCHER: Final = _PREFIX + b"handover voucher"
HANDOVER_SEAL: Final = _PREFIX + b"handover seal"
HANDOVER_COPY: Final = _PREFIX + b"handover copy"

# Lattice (RLWE masks)
LATTICE_SEED: Final = _PREFIX + b"lattice seed"
LATTICE_PUBLIC: Final = _PREFIX + b"lattice public"
LATTICE_KEY: Final = _PREFIX + b"lattice key"
LATTICE_NOISE: Final = _PREFIX + b"lattice noise"
LATTICE_MAC: Final = _PREFIX + b"lattice mac"
