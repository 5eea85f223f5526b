"""SHA-256 by the interpreter's own code: ``hashlib`` loads OpenSSL, for a twentieth of a start.

The standard library's ``random`` finds its SHA-512 in the same way.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha256 import sha256  # CPython 3.11
    except ImportError:
        try:
            from _sha2 import sha256  # CPython 3.12 and later
        except ImportError:
            from hashlib import sha256

__all__ = ["sha256"]
