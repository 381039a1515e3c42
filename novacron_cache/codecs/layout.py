"""The numbers of the envelope's layout, which `envelope` describes: two readers go by them, and one is in a hurry."""

from __future__ import annotations

import struct
from typing import Final

from ..markers import ID_BYTES

MAGIC: Final = b"NC"
VERSION: Final = 2
NONE: Final = 1
SIGNED: Final = 2
NAMED: Final = 4
GRACE: Final = 8

HEAD: Final = struct.Struct(">2sBBB8s3s")
"""The beginning, which says how the rest is written."""
IDS_BEFORE: Final = 4
"""How many ids stand before that of the key: those of dependencies that many values have in common."""
FLAGS_AT: Final = 3
KEY_ID_AT: Final = HEAD.size + IDS_BEFORE * ID_BYTES
IDS_END: Final = KEY_ID_AT + ID_BYTES
"""The end of the ids that every payload has, but for one with `NAMED`: there they are spelled out behind the tags."""
TIME_BYTES: Final = 6
"""Of a time: milliseconds since the epoch, the last ones in the year 10889."""
END_OF_TIME: Final = 2 ** (8 * TIME_BYTES) - 1
EXPIRES_AT: Final = IDS_END + TIME_BYTES
"""Behind the time at which it was created."""
TAGS_AT: Final = EXPIRES_AT + TIME_BYTES
"""Where the tags begin, if there are any, and else the body."""
SHORT: Final = struct.Struct(">H")
LONG: Final = struct.Struct(">I")
PROOF: Final = struct.Struct("<I")
CRC_BYTES: Final = PROOF.size
WHOLE: Final = 0x2144DF1C
"""The CRC-32 of anything that ends in its own CRC-32, lowest byte first."""
KEY_ID_BYTES: Final = 4
MAC_BYTES: Final = 32
SIGNATURE_BYTES: Final = KEY_ID_BYTES + MAC_BYTES
