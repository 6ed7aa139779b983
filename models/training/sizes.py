"""Compare input sizes on the held-out slice of train, as a 16:9 camera would see it.

    python sizes.py --data DIR --checkpoint best.pt

Every picture is put on a grey 16:9 frame first, so that a square input pays for the
part it cannot use.  AP50 per class at full and at camera-like size, and the time of one
picture on one thread (the least of many, so that other load matters less).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import data as D
import evaluate as E
from export import write_onnx
from net import CLASSES


def on_wide_frame(picture):
    """The picture at the left of a 16:9 frame of its own height, or at its top if wider."""
    name, img, rows = picture
    h, w = img.shape[:2]
    width, height = max(w, round(h * 16 / 9)), max(h, round(w * 9 / 16))
    frame = np.full((height, width, 3), D.PAD, np.uint8)
    frame[:h, :w] = img
    return name, frame, rows


def least_ms(predict, width, height, times=60):
    """Shortest time of one picture through the network alone."""
    x = np.full((1, 3, height, width), D.PAD, np.float32)
    best = 1e9
    for _ in range(times):
        start = time.perf_counter()
        predict(x)
        best = min(best, time.perf_counter() - start)
    return best * 1000


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--size", nargs="*", default=["640x384", "512x320", "512x288", "416x416"])
    a = ap.parse_args()
    torch.set_num_threads(1)
    checkpoint = torch.load(a.checkpoint, weights_only=True, map_location="cpu")
    pictures = [on_wide_frame(p) for p in E.parts(a.data, "held-out")["held-out"]]
    print("size ms " + " ".join(f"{c}@{s}" for s in (1.0, 0.4) for c in CLASSES))
    with tempfile.TemporaryDirectory() as folder:
        for size in a.size:
            width, height = (int(v) for v in size.split("x"))
            path = Path(folder) / f"{size}.onnx"
            write_onnx(checkpoint, path, width, height)
            predict, _, _ = E.onnx_predict(str(path))
            cells = []
            for shrink in (1.0, 0.4):
                results = E.run(predict, pictures, width, height, shrink)
                cells += [E.rounded(E.average_precision(*E.curve(results, c))) for c in range(len(CLASSES))]
            print(size, f"{least_ms(predict, width, height):.1f}", *cells, flush=True)


if __name__ == "__main__":
    main()
