"""How a vector of parameters or of their changes becomes few bytes: a chain of small stages.

``chain.Chain`` is what the rest of Marram uses; each other module is one kind of stage.
"""

from marram.wire.codec.chain import Chain, Encoded
from marram.wire.codec.seed import device_seed

__all__ = ["Chain", "Encoded", "device_seed"]
