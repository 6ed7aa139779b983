"""What a site would run without mingchu: one camera over RTSP, OpenCV and ONNX Runtime.

    by_hand.py ffmpeg URL CARD          the ffmpeg program pipes whole BGR pictures, 5 a second
    by_hand.py ffmpeg-small URL CARD    the same, and ffmpeg shrinks them to what the network takes
    by_hand.py opencv URL CARD          OpenCV's VideoCapture; reads every picture, looks at 5 a second
    by_hand.py pictures CARD FILE...    what is found in pictures, as `mingchu detect --json` has it

CARD is a model card of mingchu (models/kitchen.toml): the same network, letterbox, decoding and
suppression of double boxes. The network runs on pictures that move, for three seconds after they
did, and once a second on a still scene, as mingchu's motion gate has it by default. What is found
is only counted: there are no tracks, rules, evidence or delivery here.

It is written to be cheap: one thread for each engine and none that spins, one picture buffer that
is used again, a large pipe, motion on a small grey picture, and VideoCapture converts only the
pictures that are looked at. Once a second it prints what it did so far, as JSON.
"""
import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

# Before the engines are loaded. One thread, as mingchu's sessions have; TCP, as mingchu has it.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp",
}

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402

ANALYSE_FPS = 5
# mingchu's defaults for its motion gate.
HOLD_S, REFRESH_S, MIN_AREA = 3.0, 1.0, 0.001
PIPE_BYTES = 1 << 20


class Camera:
    """Pictures of the ffmpeg program, through a pipe."""

    def __init__(self, url, shrunk_to):
        asked = ["ffprobe", "-v", "error", "-rtsp_transport", "tcp", "-select_streams", "v:0",
                 "-show_entries", "stream=width,height", "-of", "csv=p=0", url]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30)
        if answer.returncode != 0:
            sys.exit(f"ffprobe cannot read {url}: {answer.stderr.strip()}")
        size = tuple(int(v) for v in answer.stdout.strip().rstrip(",").split(",")[:2])
        # Rate first: what is dropped is neither scaled nor converted.
        filters = f"fps={ANALYSE_FPS}"
        if shrunk_to:
            size = shrunk_to(size)[0]
            filters += f",scale={size[0]}:{size[1]}:flags=area"
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-threads", "1",
                   "-rtsp_transport", "tcp", "-i", url, "-an", "-filter_threads", "1", "-vf", filters,
                   "-f", "rawvideo", "-pix_fmt", "bgr24", "pipe:1"]
        self.program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        pipesize=PIPE_BYTES, bufsize=0)
        self.picture = np.empty((size[1], size[0], 3), np.uint8)
        self.bytes = memoryview(self.picture).cast("B")

    def next(self):
        have = 0
        while have < len(self.bytes):
            count = self.program.stdout.readinto(self.bytes[have:])
            if not count:
                sys.exit(f"ffmpeg ended with {self.program.wait()}")
            have += count
        return self.picture


class Capture:
    """Pictures of OpenCV's VideoCapture. Every picture is decoded; those that are due are converted."""

    def __init__(self, url):
        self.capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self.capture.isOpened():
            sys.exit(f"OpenCV cannot read {url}")
        self.due = time.monotonic()

    def next(self):
        while self.capture.grab():
            now = time.monotonic()
            if now >= self.due:
                self.due = max(self.due + 1 / ANALYSE_FPS, now)
                return self.capture.retrieve()[1]
        sys.exit("OpenCV's capture ended")


class Motion:
    """Whether a picture differs from the last few, shrunk and grey so that noise averages out."""

    SIZE = (320, 180)

    def __init__(self):
        self.background = None

    def moved(self, picture):
        grey = cv2.cvtColor(cv2.resize(picture, self.SIZE, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
        grey = cv2.GaussianBlur(grey, (5, 5), 0)
        if self.background is None:
            self.background = grey.astype(np.float32)
            return True
        differs = cv2.absdiff(grey, cv2.convertScaleAbs(self.background))
        cv2.accumulateWeighted(grey, self.background, 0.25)
        _, differs = cv2.threshold(differs, 15, 1, cv2.THRESH_BINARY)
        return cv2.countNonZero(differs) >= MIN_AREA * differs.size


class Detector:
    """A network of a card with `decoder = "yolox"` and `fit = "frame"`."""

    def __init__(self, card_path):
        card = tomllib.loads(card_path.read_text())
        self.input, self.low = card["input"], card["thresholds"]["low"]
        assert (self.input["fit"], card["output"]["decoder"]) == ("frame", "yolox"), card_path
        assert (self.input["channels"], self.input["mean"], self.input["scale"]) == ("bgr", [0, 0, 0], 1), card_path
        self.of = np.uint8 if self.input.get("type") == "u8" else np.float32
        self.iou, self.strides = card["thresholds"]["nms_iou"], card["output"]["strides"]
        self.names = [c["name"] for c in card["classes"]]
        groups = [c.get("group", c["name"]) for c in card["classes"]]
        self.groups = np.array([groups.index(g) for g in groups], np.int32)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        network = str(card_path.parent / card["file"])
        self.session = ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
        self.sizes, self.cells = {}, {}

    def shrunk(self, picture):
        """(size of the scaled picture, size of the tensor) for pictures of that size."""
        if picture not in self.sizes:
            step, area = max(self.strides), self.input["width_px"] * self.input["height_px"]
            best = None
            for w in range(step, area // step + 1, step):
                h = area // w // step * step
                scale = min(w / picture[0], h / picture[1])
                if h and (best is None or (scale, -w * h) > best):
                    best = (scale, -w * h)
            w, h = (-(-int(side * best[0] - 1e-6) // step) * step for side in picture)
            scale = min(w / picture[0], h / picture[1])
            scaled = tuple(min(round(side * scale), limit) for side, limit in zip(picture, (w, h)))
            self.sizes[picture] = (scaled, (w, h))
        return self.sizes[picture]

    def grid(self, tensor):
        """(x, y, stride) of each row of the output."""
        if tensor not in self.cells:
            parts = []
            for stride in self.strides:
                y, x = np.mgrid[:tensor[1] // stride, :tensor[0] // stride]
                parts.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], 1))
            self.cells[tensor] = np.concatenate(parts).astype(np.float32)
        return self.cells[tensor]

    def find(self, picture, tensor=None):
        """Boxes (x, y, width, height in the scaled picture's pixels), classes and scores."""
        size = picture.shape[1::-1]
        scaled, tensor = self.shrunk(size) if tensor is None else (size, tensor)
        if size != scaled:
            picture = cv2.resize(picture, scaled, interpolation=cv2.INTER_AREA)
        if scaled != tensor:
            picture = cv2.copyMakeBorder(picture, 0, tensor[1] - scaled[1], 0, tensor[0] - scaled[0],
                                         cv2.BORDER_CONSTANT, value=(self.input["pad"],) * 3)
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1), self.of)[None]
        rows = self.session.run(None, {self.name: planes})[0][0]
        likely = rows[:, 4] >= self.low
        rows, cells = rows[likely], self.grid(tensor)[likely]
        classes = rows[:, 5:].argmax(1)
        scores = rows[:, 4] * rows[np.arange(len(rows)), 5 + classes]
        middle = (rows[:, :2] + cells[:, :2]) * cells[:, 2:]
        sides = np.exp(rows[:, 2:4]) * cells[:, 2:]
        boxes = np.concatenate([middle - sides / 2, sides], 1)
        if len(boxes):
            kept = cv2.dnn.NMSBoxesBatched(boxes, scores, self.groups[classes], self.low, self.iou)
            boxes, classes, scores = boxes[kept], classes[kept], scores[kept]
        return boxes, classes, scores


def look_at_pictures(detector, files):
    for file in files:
        picture = cv2.imread(file)
        if picture is None:
            sys.exit(f"{file} is no picture")
        (width, height), _ = detector.shrunk(picture.shape[1::-1])
        objects = []
        for box, label, score in zip(*detector.find(picture)):
            x, y, w, h = box / (width, height, width, height)
            objects.append({"class": detector.names[label], "score": float(score),
                            "box": np.clip((x, y, x + w, y + h), 0, 1).tolist()})
        print(json.dumps({"file": file, "objects": objects}))


def main():
    cv2.setNumThreads(1)
    if len(sys.argv) > 3 and sys.argv[1] == "pictures":
        return look_at_pictures(Detector(Path(sys.argv[2])), sys.argv[3:])
    if len(sys.argv) != 4 or sys.argv[1] not in ("ffmpeg", "ffmpeg-small", "opencv"):
        sys.exit(__doc__)
    how, url, card = sys.argv[1:]
    detector, motion, tensor = Detector(Path(card)), Motion(), None
    if how == "opencv":
        camera = Capture(url)
    elif how == "ffmpeg":
        camera = Camera(url, None)
    else:
        camera = Camera(url, detector.shrunk)
        # Shrunk already: the tensor is that picture, filled up to whole cells.
        step, shape = max(detector.strides), camera.picture.shape
        tensor = tuple(-(-side // step) * step for side in shape[1::-1])
    pictures = looks = found = 0
    moved_at = looked_at = said_at = float("-inf")
    while True:
        picture = camera.next()
        now = time.monotonic()
        pictures += 1
        if motion.moved(picture):
            moved_at = now
        if now - moved_at <= HOLD_S or now - looked_at >= REFRESH_S:
            looked_at = now
            looks += 1
            boxes, _, _ = detector.find(picture, tensor)
            found += len(boxes)
        if now - said_at >= 1:
            said_at = now
            print(json.dumps({"pictures": pictures, "looks": looks, "found": found}), flush=True)


if __name__ == "__main__":
    main()
