"""The numbers of the envelope's layout, which `envelope` describes: two readers go by them, and one is in a hurry."""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = b"NC"
VERSION: Final = 1
NONE: Final = 1
SIGNED: Final = 2
NAMED: Final = 4
FIXED: Final = struct.Struct(">2sBBBBHH8sQQQII")
"""Everything before the tags."""
FORM: Final = struct.Struct(">2sBBBBHH8s")
"""Its beginning, which says how the rest is written."""
TIMES: Final = struct.Struct(">QQQ")
"""What follows: when it was created, expires and can stand in no longer."""
TERMS: Final = struct.Struct(f">{FORM.size}s8xQ8xII")
"""All of these in the words of who is in a hurry: the beginning as it is, when it expires, and two lengths."""
LONG: Final = struct.Struct(">I")
CRC_BYTES: Final = 4
KEY_ID_BYTES: Final = 4
MAC_BYTES: Final = 32
SIGNATURE_BYTES: Final = KEY_ID_BYTES + MAC_BYTES
