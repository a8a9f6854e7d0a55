"""inflated(): decompresses a request and bounds its size on the way.

gRPC's core decompresses a whole message before it checks its size: 600 MB of zeros fit in a request of 0.6 MB. So it is
told not to decompress (NOT_INFLATED). It then hands over the bytes and does not say whether they are compressed. Their
beginning shows it: no message of our methods begins as a gzip or zlib stream does.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor

from nested_sparse.errors import InputError, TooLargeError

NOT_INFLATED = ("grpc.per_message_decompression", 0)
"""Channel argument for a server whose handlers call inflated()."""
GZIP = b"\x1f\x8b"  # as a tag: field 3 of wire type 7, which does not exist
ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")  # as a tag: an integer as field 15
EITHER_KIND = zlib.MAX_WBITS | 32

_inflater = ThreadPoolExecutor(1, "inflate")
"""One thread: data that can grow a thousandfold is not decompressed for many clients at once, nor on the event loop."""


async def inflated(data: bytes, limit: int) -> bytes:
    """`data`, decompressed where it is compressed.

    limit: most bytes of the result. Raises TooLargeError for more, InputError for broken data.
    """
    if not data.startswith((GZIP, *ZLIB)):
        return data
    return await asyncio.get_running_loop().run_in_executor(_inflater, _inflate, data, limit)


def _inflate(data: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(EITHER_KIND)
    try:
        whole = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise InputError(f"The request's {len(data)} bytes are compressed and cannot be read: {error}") from None
    if len(whole) > limit:
        raise TooLargeError(
            f"The request has over {limit} bytes once it is decompressed, this server takes at most {limit}; "
            "send fewer samples at once, or start it with a larger --max-batch"
        )
    if not stream.eof or stream.unused_data:
        raise InputError(f"The request's {len(data)} bytes are compressed and do not end as they should")
    return whole
