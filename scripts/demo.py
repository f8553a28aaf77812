"""`make demo`: draw a few people, then let `multihmr2 run` look for them, exactly as on one's own pictures.

The pictures and the video are generated: bodies of known place and age in front of a plain room. With the released
weights fetched (`multihmr2 weights fetch multihmr2`) the results are real; without any, an untrained network shows
what is written and where, and its people are nonsense.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from multihmr2_ros.body import Body
from multihmr2_ros.camera import intrinsics_from_fov
from multihmr2_ros.cli.main import main as multihmr2
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.export import save_image
from multihmr2_ros.media.rasterise import DepthBuffer
from multihmr2_ros.media.video import VideoWriter
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.weights import resolve_checkpoint

WIDTH, HEIGHT, FPS, FRAMES = 640, 480, 10, 20
K = intrinsics_from_fov(np.radians(60), WIDTH, HEIGHT)
CAMERA_HEIGHT_M = 1.2
# Age phenotype, place (x, z) in metres, heading in degrees, speed to the right in m/s.
PEOPLE = ((0.67, (-1.2, 3.5), 20.0, 0.5), (0.33, (0.1, 2.8), 0.0, 0.0), (0.95, (1.3, 4.5), -30.0, -0.3))
PAINT = np.array([(120, 150, 190), (214, 150, 90), (120, 170, 130)], np.float64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for pictures and results")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    print("1. drawing three people of known place and age …", flush=True)
    body = Body("full")
    save_image(out / "room.png", picture(body, 0.0))
    with VideoWriter(out / "walk.mp4", WIDTH, HEIGHT, FPS) as video:
        for index in range(FRAMES):
            video.write(picture(body, index / FPS), index / FPS)
    weights, trained = find_weights(out)
    options = ["--checkpoint", str(weights), "--out", str(out / "results"), "--vertical-fov", "60"]
    print(f"2. multihmr2 run {out}/room.png {out}/walk.mp4 {' '.join(options)}", flush=True)
    status = multihmr2(["run", str(out / "room.png"), str(out / "walk.mp4"), *options])
    if not trained:
        print(
            "3. no trained weights are here, so an untrained network was used: the people it found are nonsense.\n"
            "   Real ones: multihmr2 weights fetch multihmr2 (1.6 GB, non-commercial licence), then make demo again."
        )
    print(f"Look at {out}/results: *_overlay.png and *_overlay.mp4 for people, *.npz for programs.")
    return status


def picture(body: Body, time_s: float) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) uint8: the people at a time, in a room with a floor and a wall."""
    shape = torch.full((len(PEOPLE), 6), 0.5)
    shape[:, 1] = torch.tensor([age for age, *_ in PEOPLE])
    upright = Rotation.from_euler("x", -90, degrees=True)  # the root bone's frame has the head at −z
    rotations = torch.eye(3).repeat(len(PEOPLE), 163, 1, 1)
    for row, (_, _, heading, _) in enumerate(PEOPLE):
        turn = Rotation.from_euler("y", heading, degrees=True) * upright
        rotations[row, 0] = torch.from_numpy(turn.as_matrix())
    vertices = body(shape, rotations).vertices.numpy()
    for row, (_, (x, z), _, speed) in enumerate(PEOPLE):
        feet = vertices[row, np.unique(body.faces)][:, 1].max()  # y is down
        vertices[row] += (x + speed * time_s, CAMERA_HEIGHT_M - feet, z)
    return render(room(), vertices, body.faces)


def room() -> NDArray[np.uint8]:
    """A floor below the horizon and a wall above it."""
    rows = np.arange(HEIGHT)[:, None, None]
    wall, floor = np.array([205, 212, 218]), np.array([150, 140, 128])
    shade = 0.85 + 0.15 * rows / HEIGHT
    return np.broadcast_to(np.where(rows < 0.55 * HEIGHT, wall, floor) * shade, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def render(image: NDArray[np.uint8], vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The meshes (n, V, 3) over an image, flat-shaded by a lamp at the camera."""
    drawn = image.copy().reshape(-1, 3)
    buffer = DepthBuffer(HEIGHT, WIDTH)
    points = vertices.reshape(-1, 3) @ K.T
    triangles = (faces[None] + vertices.shape[1] * np.arange(len(vertices))[:, None, None]).reshape(-1, 3)
    corners = vertices.reshape(-1, 3)[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = np.abs(normal[:, 2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    x, y, z = points.T
    buffer.draw(x / z, y / z, 1 / z, triangles.T, np.arange(len(triangles)))
    pixels, nearest = buffer.nearest()
    color = PAINT[nearest // len(faces)] * (0.35 + 0.65 * light[nearest, None])
    drawn[pixels] = color.astype(np.uint8)
    return drawn.reshape(HEIGHT, WIDTH, 3)


def find_weights(out: Path) -> tuple[Path, bool]:
    """The released weights where they are here, else an untrained network; and whether they are trained."""
    try:
        return resolve_checkpoint("multihmr2"), True
    except UserError:
        torch.manual_seed(0)
        small = {"encoder_width": 192, "encoder_depth": 4, "encoder_heads": 3, "decoder_width": 192, "decoder_depth": 2}
        network = MultiHMR2(NetworkConfig(image_size=320, max_grid=20, queries=20, **small, head_width=192))
        with torch.no_grad():
            network.detection.nearness[2].bias.fill_(4.2)  # people a few metres away
        path = out / "untrained.safetensors"
        checkpoint.save(network, path)
        return path, False


if __name__ == "__main__":
    raise SystemExit(main())
