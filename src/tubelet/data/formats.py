"""What FFmpeg may open: containers of videos, and nothing that they name.

A file that is called a video may be a playlist (HLS, DASH, concat, SDP), and then names other files or addresses, which
FFmpeg would open, fetch and show. So only containers are read that hold their pictures themselves, whatever the ending
says; and of ways to a file only those that lead to this one.
"""

from typing import Any

CONTAINERS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf,asf_o,flv,live_flv,kux,mxf,ogg,nut,wtv,rm,dv,gxf,ivf,obu,av1,h264,hevc,"
    "vvc,m4v,h263,h261,cavsvideo,vc1,dirac,mjpeg,mpjpeg,gif,apng,yuv4mpegpipe,dhav"
)  # of mov, mp4 and their kin FFmpeg has one reader; it follows no references to other files unless it is told to
REFUSED = "not on whitelist"  # FFmpeg's words
LOCAL = "file,subfile"
NO_OTHER = "none"  # no protocol is called so: what is opened already may open nothing else


def guarded(address: Any) -> dict[str, str]:
    """Options for `av.open` of an address of `shards.address`, or of a file that is open.

    Of an MP4 that lies elsewhere, no packets are looked at: its tables say all that there is to know, and FFmpeg would
    fetch five seconds of pictures.
    """
    if isinstance(address, str):
        return {"format_whitelist": CONTAINERS, "protocol_whitelist": LOCAL}
    found = {"format_whitelist": CONTAINERS, "protocol_whitelist": NO_OTHER}
    if address.seekable():
        head = address.read(8)
        address.seek(0)
        found |= {"analyzeduration": "1"} if head[4:] == b"ftyp" else {}  # microseconds
    return found
