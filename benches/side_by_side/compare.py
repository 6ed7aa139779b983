"""CPU seconds per camera-minute: mingchu beside what a site would run without it (by_hand.py).

    compare.py --out RESULTS.md [--mingchu FILE] [--clips FOLDER] [--seconds 60] [--rounds 3] ...

Run it with the Python that has requirements.txt; README.md beside this file says how, what is
compared and why that is fair. Everything is measured in one run, contestant after contestant and
round after round (or some contestants of a scene at once, --at-once), each on the same scene from
the same RTSP camera. User and system time of a contestant and of all its children counts; the
camera is a process of its own and does not.
"""
import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ANALYSE_FPS = 5
BUSY_SHARE = 0.2  # of a typical kitchen day
TARGET_DAY, TARGET_BUSY = 3.0, 1.0
START_LIMIT_S = 60
BUSY_CLIP, STILL_CLIP = "shop-masks.mp4", "room-empty-static.mp4"
# (width, height, kbit/s of the still scene and of the enlarged clip)
SIZES = {"720p": (1280, 720, 2000), "1080p": (1920, 1080, 4000)}
# What is the same in all that is encoded here: as cameras send it, no B-pictures, a key picture every
# two seconds.
AS_CAMERAS_DO = ["-an", "-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", "50", "-keyint_min", "50",
                 "-sc_threshold", "0", "-pix_fmt", "yuv420p"]

OURS, SHIPPED = "mingchu", "mingchu-shipped"
BY_HAND = {
    "ffmpeg": "ffmpeg pipe, OpenCV, ONNX Runtime",
    "ffmpeg-small": "the same, shrunk by ffmpeg",
    "opencv": "OpenCV VideoCapture, ONNX Runtime",
}
NAMES = BY_HAND | {
    OURS: "mingchu, the same network",
    SHIPPED: "mingchu as shipped, three models",
}


def stop(problem, remedy):
    sys.exit(f"compare: {problem}\n  {remedy}")


# --- What is needed.


def arguments():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    shared = Path(os.environ.get("MINGCHU_SHARED", ROOT.parent / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the tables, in Markdown")
    parser.add_argument("--mingchu", type=Path, default=target / "release/mingchu", metavar="FILE")
    parser.add_argument("--clips", type=Path, default=shared / "data/clips", metavar="FOLDER",
                        help=f"has {BUSY_CLIP} and {STILL_CLIP}")
    parser.add_argument("--models", type=Path, default=ROOT / "models", metavar="FOLDER", help="model cards")
    parser.add_argument("--camera-python", default="/usr/bin/python3", metavar="FILE",
                        help="Python with GStreamer, for tests/rtsp_camera.py")
    parser.add_argument("--seconds", type=float, default=60, metavar="SECONDS", help="of each measurement")
    parser.add_argument("--warm-up", type=float, default=60, metavar="SECONDS",
                        help="after all have looked at their first picture; a scene is quiet after half a minute")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME",
                        help=f"of {', '.join(NAMES)}")
    parser.add_argument("--at-once", type=int, default=1, metavar="N",
                        help="so many contestants of a scene at a time: quicker; needs idle cores for them")
    args = parser.parse_args()
    args.models = args.models.resolve()
    if args.seconds < 1 or args.warm_up < 0 or args.rounds < 1 or args.at_once < 1:
        parser.error("--seconds, --rounds and --at-once begin with 1, --warm-up with 0")
    return args


def first_line(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.splitlines() or [""])[0] if done.returncode == 0 else None


def check(args):
    """What is missing, with what to do about it; else the versions, for the table."""
    versions = {"mingchu": first_line(str(args.mingchu), "--version")}
    if versions["mingchu"] is None:
        stop(f"{args.mingchu} does not run", "build it with `make build`, or name another with --mingchu")
    for program in ("ffmpeg", "ffprobe"):
        if not shutil.which(program):
            stop(f"there is no {program}", "Debian's package is ffmpeg; `.ci/setup test` installs it")
    versions["mingchu"] = versions["mingchu"].removeprefix("mingchu ")
    versions["FFmpeg"] = first_line("ffmpeg", "-version").split()[2]
    for clip in (BUSY_CLIP, STILL_CLIP):
        if not (args.clips / clip).is_file():
            stop(f"there is no {args.clips / clip}",
                 "name the folder with the clips by --clips, or its shared folder by MINGCHU_SHARED")
    if first_line(args.camera_python, "-c", "import gi; gi.require_version('GstRtspServer', '1.0')") is None:
        stop(f"{args.camera_python} has no GStreamer RTSP server",
             "`.ci/setup test` installs Debian's python3-gi, gir1.2-gst-rtsp-server-1.0 and GStreamer's plug-ins")
    packages = first_line(sys.executable, "-c", "import cv2, numpy, onnxruntime as o; "
                          "print(cv2.__version__, numpy.__version__, o.__version__)")
    if packages is None:
        stop(f"{sys.executable} lacks OpenCV, NumPy or ONNX Runtime",
             f"make a virtual environment and install {HERE.relative_to(ROOT) / 'requirements.txt'}; see README.md there")
    for name, version in zip(("OpenCV", "NumPy", "ONNX Runtime"), packages.split()):
        versions[name] = version
    pin = re.search(r"^ort_version=(\S+)", (ROOT / ".ci/setup").read_text(), re.M)[1]
    if versions["ONNX Runtime"] != pin:
        stop(f"ONNX Runtime is {versions['ONNX Runtime']}, the daemon's is {pin}",
             f"install {HERE.relative_to(ROOT) / 'requirements.txt'} anew")
    versions["Python"] = platform.python_version()
    return versions


def runtime_library():
    """The wheel's own library, so that all sides run the same ONNX Runtime."""
    import importlib.util
    folder = Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so.*"))
    if not found:
        stop(f"{folder} has no libonnxruntime.so", "install requirements.txt anew")
    return found[0]


# --- Scenes and the camera that sends them.


def ffmpeg(*args):
    done = subprocess.run(["ffmpeg", "-nostdin", "-y", "-loglevel", "error", *map(str, args)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        stop(f"ffmpeg failed: {done.stderr.strip()}", "the tail of its message says why; it needs libx264")


def make_scenes(args, folder):
    """{(size, "idle" | "busy"): clip}."""
    scenes = {}
    for size in args.sizes:
        width, height, kbps = SIZES[size]
        limits = ["-b:v", f"{kbps}k", "-maxrate", f"{kbps}k", "-bufsize", f"{2 * kbps}k"]
        still = folder / f"idle-{size}.mp4"
        print(f"making {still.name}", flush=True)
        # One picture of a real camera, its sensor's noise anew in each.
        ffmpeg("-i", args.clips / STILL_CLIP, "-frames:v", 1, folder / "still.png")
        ffmpeg("-loop", 1, "-framerate", 25, "-i", folder / "still.png", "-t", 60,
               "-vf", f"scale={width}:{height},noise=alls=5:allf=t", *AS_CAMERAS_DO, *limits, still)
        scenes[size, "idle"] = still
        clip = args.clips / BUSY_CLIP
        if size != "720p":  # the clip is 720p, and sent as it is
            clip = folder / f"busy-{size}.mp4"
            print(f"making {clip.name}", flush=True)
            ffmpeg("-i", args.clips / BUSY_CLIP, "-vf", f"scale={width}:{height},fps=25", *AS_CAMERAS_DO, *limits, clip)
        scenes[size, "busy"] = clip
    return scenes


def overlap(a, b):
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    area = [(r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)]
    return width * height / (sum(area) - width * height)


def agreement(args, folder):
    """That both sides do the same work: a sentence on what they find in the same pictures."""
    ffmpeg("-i", args.clips / BUSY_CLIP, "-vf", "fps=2", folder / "look-%03d.png")
    pictures, card = sorted(map(str, folder.glob("look-*.png"))), str(args.models / "kitchen.toml")

    def found(*command):
        env = os.environ | {"ORT_DYLIB_PATH": str(runtime_library())}
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
        if done.returncode != 0:
            stop(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}", "its message says what to do")
        return [json.loads(line)["objects"] for line in done.stdout.splitlines()]

    ours = found(args.mingchu.resolve(), "detect", "--json", "--models", card, *pictures)
    theirs = found(sys.executable, HERE / "by_hand.py", "pictures", card, *pictures)
    boxes = agreed = 0
    for mine, other in zip(ours, theirs, strict=True):
        for box in mine:
            if box["score"] >= 0.3:
                boxes += 1
                agreed += any(o["class"] == box["class"] and overlap(o["box"], box["box"]) > 0.7
                              and abs(o["score"] - box["score"]) < 0.1 for o in other)
    if agreed < 0.97 * boxes or boxes == 0:
        stop(f"by_hand.py finds {agreed} of mingchu's {boxes} boxes", "they must do the same work to be compared")
    return (f"In {len(pictures)} pictures of {BUSY_CLIP} by_hand.py finds {agreed} of the {boxes} boxes that "
            "mingchu finds with a score of 0.3 or more: the same class and place, the score within 0.1.")


def describe(clip):
    asked = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json", "-show_entries",
             "stream=codec_name,width,height,avg_frame_rate,bit_rate,has_b_frames", str(clip)]
    stream = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)["streams"][0]
    up, down = map(int, stream["avg_frame_rate"].split("/"))
    b = "B-pictures" if stream["has_b_frames"] else "no B-pictures"
    return (f"{stream['codec_name']} {stream['width']}x{stream['height']}, {up / down:.3g}/s, "
            f"{int(stream['bit_rate']) / 1000:.0f} kbit/s, {b}")


@contextlib.contextmanager
def camera(args, scenes, log):
    """Yields {scene: URL} while the camera runs."""
    mounts = [f"{kind}-{size}={clip.resolve()}" for (size, kind), clip in scenes.items()]
    process = subprocess.Popen([args.camera_python, ROOT / "tests/rtsp_camera.py", "0", *mounts],
                               stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        port = None
        for line in process.stdout:
            if line.startswith("ready "):
                port = int(line.split()[1])
                break
        if port is None:
            stop(f"the RTSP camera ended with {process.wait()}", f"its messages: {log.name}")
        yield {scene: f"rtsp://127.0.0.1:{port}/{scene[1]}-{scene[0]}" for scene in scenes}
    finally:
        process.terminate()
        process.wait()


# --- What a process and its children cost, from /proc.


def stat_fields(text):
    """(name, the fields from `state` on) of a /proc/.../stat: the name may hold spaces and brackets."""
    return text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()


def tree(root):
    """`root` and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(path.parent.name)] = int(stat_fields(path.read_text())[1][1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_s(root):
    """User and system time of the tree, those of it included that ended and were waited for."""
    ticks = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, stat_fields(Path(f"/proc/{pid}/stat").read_text())[1][11:15]))
    return ticks * TICK_S


def threads_s(root):
    """{name: seconds} of the tree's threads; names that end in a number are put together."""
    found = {}
    for pid in tree(root):
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):
                name, fields = stat_fields(path.read_text())
                name = re.sub(r"[/-]?\d+$", "", name)
                found[name] = found.get(name, 0) + sum(map(int, fields[11:13])) * TICK_S
    return found


def memory_mb(root):
    """(peak of the resident sets, what they hold now with shared pages divided), summed over the tree."""
    peak = held = 0
    for pid in tree(root):
        with contextlib.suppress(OSError, AttributeError):
            peak += int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
            held += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])
    return peak / 1024, held / 1024


# --- Contestants.


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Running:
    """A contestant at work on one camera."""

    def __init__(self, command, folder, name, env=None):
        self.name, self.log = name, folder / f"{name}.log"
        with open(self.log, "ab") as log:
            # A group of its own, so that its children end with it.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                            env=env, start_new_session=True)
        self.last = b""
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.last = line

    def check(self):
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
            stop(f"{self.name} ended with {self.process.returncode}:\n{tail}", f"all of it: {self.log}")

    def end(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class ByHand(Running):
    def __init__(self, args, name, url, folder):
        super().__init__([sys.executable, HERE / "by_hand.py", name, url, args.models / "kitchen.toml"], folder, name)

    def looks(self):
        return json.loads(self.last)["looks"] if self.last else 0


class Mingchu(Running):
    def __init__(self, args, name, url, folder):
        self.status = free_port()
        state = Path(tempfile.mkdtemp(prefix="state-", dir=folder))
        models, codes = ["kitchen"], ["ppe.mask.missing"]
        if name == SHIPPED:
            models += ["heads", "smoking"]
            codes += ["ppe.hat.missing", "act.smoking", "pest.rodent"]
        cards = [str(args.models / f"{m}.toml") for m in models]
        # The same work: no squares of full resolution, which the others do not look at.
        regions = "regions = 0\n" if name == OURS else ""
        site = (f'[site]\nregion = "410724"\nid = "side-by-side"\nstate_dir = {json.dumps(str(state))}\n'
                # Nobody listens there: findings and evidence are made and kept.
                f'[uplink]\nbroker = "mqtt://127.0.0.1:{free_port()}"\n'
                f'[detect]\nmodels = {json.dumps(cards)}\n{regions}'
                f'[status]\nlisten = "127.0.0.1:{self.status}"\n'
                f'[[camera]]\nid = "kitchen"\nurl = "{url}"\nanalyse_fps = {ANALYSE_FPS}.0\n')
        for code in codes:
            site += f'[[rule]]\nid = "{code.replace(".", "-")}"\ncode = "{code}"\ncameras = ["kitchen"]\n'
        config = state / "site.toml"
        config.write_text(site)
        env = os.environ | {"ORT_DYLIB_PATH": str(runtime_library())}
        super().__init__([args.mingchu, "run", "--config", config], folder, name, env)

    def looks(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.status}/metrics", timeout=5) as page:
                text = page.read().decode()
        except OSError:
            return 0
        found = re.search(r'^mingchu_detect_frames_total\{camera="kitchen"\} (\d+)', text, re.M)
        return int(found[1]) if found else 0


def start(args, name, url, folder):
    kind = Mingchu if name.startswith("mingchu") else ByHand
    return kind(args, name, url, folder)


def measure(args, names, url, folder):
    """{name: figures} of contestants that run at once on one scene, after all have looked at pictures."""
    running = []
    try:
        running = [start(args, name, url, folder) for name in names]
        limit = time.monotonic() + START_LIMIT_S
        for one in running:
            while one.looks() == 0:
                one.check()
                if time.monotonic() > limit:
                    stop(f"{one.name} looked at no picture in {START_LIMIT_S} s", f"its messages: {one.log}")
                time.sleep(0.5)
        time.sleep(args.warm_up)
        began = {}
        for one in running:
            began[one.name] = (time.monotonic(), cpu_s(one.process.pid), one.looks(), threads_s(one.process.pid))
        memory = {one.name: (0, 0) for one in running}
        end = time.monotonic() + args.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 10))
            for one in running:
                one.check()
                memory[one.name] = tuple(map(max, memory[one.name], memory_mb(one.process.pid)))
        results = {}
        for one in running:
            at, cpu, looks, threads = began[one.name]
            minutes = (time.monotonic() - at) / 60
            now = threads_s(one.process.pid)
            results[one.name] = {
                "cpu": (cpu_s(one.process.pid) - cpu) / minutes,
                "looks": (one.looks() - looks) / minutes,
                "threads": {n: (s - threads.get(n, 0)) / minutes for n, s in now.items()},
                "peak_mb": memory[one.name][0],
                "pss_mb": memory[one.name][1],
            }
        return results
    finally:
        for one in running:
            one.end()


# --- The tables.


def median(rows, key):
    return statistics.median(row[key] for row in rows)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def spread(rows, digits=1):
    values = sorted(row["cpu"] for row in rows)
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


def report(args, versions, agrees, scenes, results, loads):
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    how = "in turns, one at a time" if args.at_once == 1 else f"in turns, {args.at_once} contestants at a time"
    rounds = min(len(rows) for rows in results.values())
    out = [
        "# CPU seconds per camera-minute\n",
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; {model}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release()}; load {loads[0]:.1f} at the start, {loads[1]:.1f} at the end. "
        + ", ".join(f"{n} {v}" for n, v in versions.items()) + ".\n",
        f"Median of {rounds} round(s) of {args.seconds:.0f} s after {args.warm_up:.0f} s of warm-up, {how}; least and most "
        f"in brackets. {ANALYSE_FPS} pictures a second are sampled; looks: pictures on which the network ran. "
        f"A day: {BUSY_SHARE:.0%} busy. {agrees}\n",
    ]
    verdicts = []
    for size in args.sizes:
        out.append(f"\n## {size}\n")
        out.append("\n".join(f"* {kind}: {describe(scenes[size, kind])}" for kind in ("idle", "busy")) + "\n")
        cost = {}
        for name in args.only:
            idle, busy = (median(results[size, kind, name], "cpu") for kind in ("idle", "busy"))
            cost[name] = {"idle": idle, "busy": busy, "day": BUSY_SHARE * busy + (1 - BUSY_SHARE) * idle}
        rows = []
        for name in args.only:
            times = ["-"] * 3
            if OURS in cost and name in BY_HAND:
                times = [f"{cost[name][k] / cost[OURS][k]:.2f}" for k in ("idle", "busy", "day")]
            looks = [f"{median(results[size, kind, name], 'looks'):.0f}" for kind in ("idle", "busy")]
            if int(looks[1]) < 0.95 * 60 * ANALYSE_FPS:
                looks[1] += " (pictures were missed: its CPU time is too low)"
            rows.append([NAMES[name], spread(results[size, "idle", name]), spread(results[size, "busy", name]),
                         f"{cost[name]['day']:.1f}", " / ".join(looks), " / ".join(times)])
        out.append(table(["", "idle", "busy", "day", "looks a minute, idle / busy",
                          "times what mingchu takes for the same network: idle / busy / day"], rows))
        for ours in (OURS, SHIPPED):
            for name in BY_HAND:
                if ours in cost and name in cost:
                    day, busy = (cost[name][k] / cost[ours][k] for k in ("day", "busy"))
                    verdicts.append([size, NAMES[ours], NAMES[name],
                                     f"{day:.2f}: {'met' if day >= TARGET_DAY else 'MISSED'}",
                                     f"{busy:.2f}: {'met' if busy >= TARGET_BUSY else 'MISSED'}"])
    if verdicts:
        out.append("\n## Targets\n")
        out.append(table(["", "", "beside", f"day, at least {TARGET_DAY:.0f} times fewer",
                          "busy, never worse (at least 1)"], verdicts))
    out.append("\n## Memory, MB\n")
    out.append("Peak resident sets, summed over a contestant's processes; in brackets shared pages divided among those "
               "that share them (Pss). The most of all rounds.\n")
    rows = []
    for name in args.only:
        most = [[max(row[key] for row in results[size, kind, name]) for key in ("peak_mb", "pss_mb")]
                for size in args.sizes for kind in ("idle", "busy")]
        rows.append([NAMES[name]] + [f"{peak:.0f} ({pss:.0f})" for peak, pss in most])
    out.append(table([""] + [f"{size} {kind}" for size in args.sizes for kind in ("idle", "busy")], rows))
    out.append("\n## Where it goes: CPU seconds per camera-minute of each thread\n")
    for name in args.only:
        rows = []
        columns = [(size, kind) for size in args.sizes for kind in ("idle", "busy")]
        threads = {t for column in columns for row in results[*column, name] for t in row["threads"]}
        middle = {t: [statistics.median(row["threads"].get(t, 0) for row in results[*column, name])
                      for column in columns] for t in threads}
        for thread in sorted(threads, key=lambda t: -max(middle[t])):
            if max(middle[thread]) >= 0.05:
                rows.append([f"`{thread}`"] + [f"{v:.2f}" for v in middle[thread]])
        out.append(f"{NAMES[name]}:\n")
        out.append(table(["thread"] + [" ".join(column) for column in columns], rows))
    return "\n".join(out)


def main():
    args = arguments()
    # So that whoever ends this ends what it started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    versions = check(args)
    loads = [os.getloadavg()[0], 0]
    folder = Path(tempfile.mkdtemp(prefix="mingchu-side-by-side-"))
    keep = True  # the messages, if anything goes wrong
    try:
        agrees = agreement(args, folder)
        print(agrees, flush=True)
        scenes = make_scenes(args, folder)
        results = {}
        with open(folder / "camera.log", "w") as log, camera(args, scenes, log) as urls:
            groups = -(-len(args.only) // args.at_once)
            minutes = args.rounds * len(scenes) * groups * (args.seconds + args.warm_up + 5) / 60
            print(f"measuring takes about {minutes:.0f} minutes", flush=True)
            for number in range(args.rounds):
                # Each round begins with another one, so that none always runs first.
                turn = number % len(args.only)
                order = args.only[turn:] + args.only[:turn]
                for (size, kind), url in urls.items():
                    for names in (order[i:i + args.at_once] for i in range(0, len(order), args.at_once)):
                        for name, figures in measure(args, names, url, folder).items():
                            results.setdefault((size, kind, name), []).append(figures)
                            print(f"round {number + 1}, {size} {kind}, {name}: {figures['cpu']:.2f} CPU s, "
                                  f"{figures['looks']:.0f} looks a minute, {figures['peak_mb']:.0f} MB", flush=True)
                loads[1] = os.getloadavg()[0]
                # After each round, so that a run that is cut short has told what it knows.
                text = report(args, versions, agrees, scenes, results, loads)
                args.out.write_text(text)
        print("\n" + text)
        keep = False
    finally:
        if keep:
            print(f"messages of all programs: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
