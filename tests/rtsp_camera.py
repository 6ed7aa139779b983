#!/usr/bin/python3
"""An RTSP camera for tests: serves clips in a loop, paced in real time, by GStreamer's RTSP server.

    rtsp_camera.py [--auth USER:PASSWORD:basic|digest] [--mute-after SECONDS] PORT NAME=CLIP.mp4 ...

Each clip (the H.264 or H.265 track of an MP4; other tracks are left out) is at
rtsp://127.0.0.1:PORT/NAME; timestamps run on across the loop. PORT 0 takes a free port. Prints a line
per clip and then "ready PORT". With --mute-after each stream falls silent that long after it began
while its RTSP session goes on, as a camera whose encoder hangs. SIGTERM and SIGINT end it at once.

Needs Debian's python3-gi, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-{base,good,bad}; run it
with Debian's /usr/bin/python3, for which those are built.
"""
import argparse
import os
import signal
import sys
import time

import gi

for name in ("Gst", "GstRtspServer", "GstRtsp", "GstApp"):
    gi.require_version(name, "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

START_NS = 200_000_000  # room before the first picture for negative decode timestamps


def read_access_units(path):
    """Returns (caps, [(bytes, pts_ns, dts_ns, is_delta)], loop_ns, codec) of a clip's video track."""
    with open(path, "rb") as file:
        # The box that holds the decoder's configuration names the codec, without a trial run of each.
        codec = "h265" if b"hvcC" in file.read() else "h264"
    pipe = Gst.parse_launch(
        f"filesrc name=file ! qtdemux ! {codec}parse config-interval=-1 "
        f"! video/x-{codec},stream-format=byte-stream,alignment=au ! appsink name=out sync=false"
    )
    pipe.get_by_name("file").set_property("location", path)
    out = pipe.get_by_name("out")
    pipe.set_state(Gst.State.PLAYING)
    units, caps = [], None
    while sample := out.emit("try-pull-sample", 5 * Gst.SECOND):
        caps, buf = sample.get_caps(), sample.get_buffer()
        ok, mapped = buf.map(Gst.MapFlags.READ)
        assert ok, "memory that filesrc read can be mapped"
        delta = bool(int(buf.get_flags()) & int(Gst.BufferFlags.DELTA_UNIT))
        units.append((bytes(mapped.data), buf.pts, buf.dts, delta))
        buf.unmap(mapped)
    pipe.set_state(Gst.State.NULL)
    if not units:
        sys.exit(f"{path}: no H.264 or H.265 video track")
    pts = sorted(u[1] for u in units)
    frame_ns = round((pts[-1] - pts[0]) / max(1, len(pts) - 1))
    return caps, units, frame_ns * len(units), codec


class LoopedClip(GstRtspServer.RTSPMediaFactory):
    """One mount: the clip's access units, again and again, to all its clients."""

    def __init__(self, path, mute_after_s):
        super().__init__()
        self.mute_after_s = mute_after_s
        self.caps, self.units, self.loop_ns, self.codec = read_access_units(path)
        self.set_shared(True)
        print(path, self.codec, len(self.units), "access units", self.loop_ns / 1e9, "s", flush=True)

    def do_create_element(self, _url):
        return Gst.parse_launch(
            "( appsrc name=src is-live=true format=time block=true max-bytes=4000000 "
            f"! {self.codec}parse ! rtp{self.codec}pay name=pay0 pt=96 config-interval=-1 )"
        )

    def do_configure(self, media):
        source = media.get_element().get_by_name_recurse_up("src")
        source.set_property("caps", self.caps)
        first_ns = self.units[0][1]
        state = {"next": 0, "base_ns": START_NS - first_ns}

        def push(element, _length):
            data, pts, dts, delta = self.units[state["next"]]
            stream_s = (pts + state["base_ns"] - START_NS) / 1e9
            if self.mute_after_s is not None and stream_s >= self.mute_after_s:
                return  # nothing pushed: appsrc does not ask again, and the session stays as it is
            buf = Gst.Buffer.new_wrapped(data)
            buf.pts = pts + state["base_ns"]
            if dts != Gst.CLOCK_TIME_NONE:
                buf.dts = max(0, dts + state["base_ns"])
            if delta:
                buf.set_flags(Gst.BufferFlags.DELTA_UNIT)
            state["next"] += 1
            if state["next"] == len(self.units):
                state["next"] = 0
                state["base_ns"] += self.loop_ns
            element.emit("push-buffer", buf)

        source.connect("need-data", push)


def login_of(text):
    user, password, scheme = text.split(":")
    if scheme not in ("basic", "digest"):
        raise ValueError(scheme)
    return user, password, scheme


def mount_of(text):
    name, path = text.split("=", 1)
    return name, path


def end(_signal, _frame):
    # Without GStreamer's own farewells: clients see what they see when a camera loses its power.
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--auth", type=login_of, metavar="USER:PASSWORD:SCHEME")
    parser.add_argument("--mute-after", type=float, metavar="SECONDS")
    parser.add_argument("port", type=int)
    parser.add_argument("mounts", type=mount_of, nargs="+", metavar="NAME=CLIP.mp4")
    args = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer.new()
    server.set_service(str(args.port))
    server.set_address("127.0.0.1")
    if args.auth:
        user, password, scheme = args.auth
        auth, token = GstRtspServer.RTSPAuth.new(), GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        if scheme == "digest":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(user, password, token)
        else:
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
    for name, path in args.mounts:
        clip = LoopedClip(path, args.mute_after)
        if args.auth:
            allowed = GstRtspServer.RTSPPermissions()
            allowed.add_role("viewer")
            allowed.add_permission_for_role("viewer", "media.factory.access", True)
            allowed.add_permission_for_role("viewer", "media.factory.construct", True)
            clip.set_permissions(allowed)
        server.get_mount_points().add_factory("/" + name, clip)
    if server.attach(None) == 0:
        sys.exit(f"port {args.port} cannot be used")
    # Python's handlers run only between its own instructions, and the main loop below is one long
    # one; a timer that calls into Python often is what lets them run.
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    cleaned_s = time.monotonic()

    def tick():
        nonlocal cleaned_s
        if time.monotonic() - cleaned_s >= 5:
            cleaned_s = time.monotonic()
            server.get_session_pool().cleanup()
        return True

    GLib.timeout_add(100, tick)
    print("ready", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main()
