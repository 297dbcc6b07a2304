"""The names under which messages are refused. They are counted, reported and shown: never renamed."""

MALFORMED = "malformed"  # not the bytes of a message: bad CBOR, bad COSE, wrong types, trailing bytes
TOO_LARGE = "too_large"  # more bytes than a message of its kind may have
UNKNOWN_DEVICE = "unknown_device"  # the key is not one that this fleet knows
EXPIRED = "expired"  # the key's certificate is not valid at this time
REVOKED = "revoked"  # the key was known and is no longer trusted
WRONG_FLEET = "wrong_fleet"  # signed for another fleet
WRONG_SENDER = "wrong_sender"  # the signer may not write under this topic
BAD_SIGNATURE = "bad_signature"  # the bytes or the topic are not those that were signed
WRONG_KIND = "wrong_kind"  # a sound message of a kind that does not belong on this topic
REPLAYED = "replayed"  # a message that was taken before, or an older one than the last taken
STALE_ROUND = "stale_round"  # the round is closed
WRONG_BASE = "wrong_base"  # trained from other parameters than the round's
WRONG_CHAIN = "wrong_chain"  # encoded by another chain than the offer's
BAD_VALUES = "bad_values"  # decodes to the wrong length, to NaN or infinity, or beyond the limits

ALL = (
    MALFORMED, TOO_LARGE, UNKNOWN_DEVICE, EXPIRED, REVOKED, WRONG_FLEET, WRONG_SENDER, BAD_SIGNATURE,
    WRONG_KIND, REPLAYED, STALE_ROUND, WRONG_BASE, WRONG_CHAIN, BAD_VALUES,
)  # fmt: skip
