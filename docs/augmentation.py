"""Draws the figures of docs/augmentation.md from two synthetic scenes: python docs/augmentation.py"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from jaxft.data.augmentation.augment import Augmentations, augment
from jaxft.data.augmentation.evaluation import ten_crops
from jaxft.data.augmentation.mixing import mix
from jaxft.data.augmentation.randaugment import RANDAUGMENT

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
SIDE, CROP, FINE = 128, 112, 4  # side of a scene and of its crops, in pixels; oversampling factor of the drawing
DRAWS = 7
JITTERED = ("brightness", "contrast", "saturation", "hue")
INK = "#333333"


def scene(house: bool) -> np.ndarray:
    """Returns an image [SIDE, SIDE, 3] uint8: a house among hills by day, or a boat at sea in the evening."""
    size = SIDE * FINE
    top, bottom = ((90, 160, 230), (215, 235, 250)) if house else ((60, 40, 100), (250, 150, 90))
    share = np.linspace(0, 1, size).reshape(-1, 1, 1) ** 0.7
    sky = (np.array(top) * (1 - share) + np.array(bottom) * share) * np.ones((1, size, 1))
    picture = Image.fromarray(sky.astype(np.uint8))
    draw = ImageDraw.Draw(picture)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * size, y * size) for x, y in points]

    if house:
        draw.ellipse(at((0.7, 0.08), (0.86, 0.24)), "#ffe27a")
        draw.ellipse(at((-0.35, 0.55), (0.6, 1.5)), "#5f9e52")
        draw.ellipse(at((0.3, 0.62), (1.4, 1.6)), "#7fb85c")
        draw.rectangle(at((0.24, 0.46), (0.52, 0.72)), "#d9a066")
        draw.polygon(at((0.2, 0.47), (0.38, 0.3), (0.56, 0.47)), "#a33b2f")
        draw.rectangle(at((0.29, 0.54), (0.37, 0.72)), "#5c3a21")
        draw.rectangle(at((0.42, 0.53), (0.48, 0.6)), "#cfe8ff")
        draw.rectangle(at((0.72, 0.6), (0.76, 0.78)), "#6b4a2b")
        draw.ellipse(at((0.63, 0.38), (0.85, 0.64)), "#2f6b3a")
    else:
        draw.ellipse(at((0.4, 0.44), (0.6, 0.64)), "#ffd36b")
        draw.rectangle(at((0, 0.58), (1, 1)), "#22406b")
        for i in range(9):
            y = 0.62 + 0.04 * i
            draw.line(at((0.06 + 0.07 * (i % 3), y), (0.3 + 0.07 * (i % 4), y)), "#5f86b8", FINE)
            draw.line(at((0.56 + 0.05 * (i % 4), y), (0.84 + 0.03 * (i % 3), y)), "#d99a5b", FINE)
        draw.polygon(at((0.24, 0.66), (0.66, 0.66), (0.58, 0.76), (0.31, 0.76)), "#7b2d26")
        draw.rectangle(at((0.43, 0.28), (0.445, 0.66)), "#3b2a1d")
        draw.polygon(at((0.46, 0.3), (0.64, 0.62), (0.46, 0.62)), "#f5efe0")
        draw.polygon(at((0.42, 0.34), (0.29, 0.62), (0.42, 0.62)), "#e3d6bd")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def save(name: str, rows: dict[str, list[np.ndarray]], titles: list[list[str]] | None = None) -> None:
    """Writes a grid of images: one named row per entry of `rows`; `titles`, if not None, are above the images."""
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.12 * columns + 1.6, (1.34 if titles else 1.16) * len(rows))
    )
    for i, ((row, pictures), line) in enumerate(zip(rows.items(), axes.reshape(len(rows), columns))):
        for j, axis in enumerate(line):
            axis.set_axis_off()
            if j < len(pictures):
                axis.imshow(np.asarray(pictures[j]).clip(0, 255).astype(np.uint8), interpolation="nearest")
                if titles:
                    axis.set_title(titles[i][j], fontsize=7, color=INK, pad=3)
        if row.strip():
            line[0].text(-0.08, 0.5, row, transform=line[0].transAxes, ha="right", va="center", fontsize=8, color=INK)
    left = 1.5 / figure.get_figwidth() if any(name.strip() for name in rows) else 0.01
    figure.subplots_adjust(left, 0.01, 0.99, 0.93 if titles else 0.99, 0.06, 0.28 if titles else 0.06)
    figure.savefig(HERE / name, dpi=100, pil_kwargs={"optimize": True})
    plt.close(figure)


def main() -> None:
    """Writes both figures."""
    house, boat = (jnp.asarray(scene(kind)) for kind in (True, False))
    copies = jnp.stack([house] * DRAWS)
    key = jax.random.key(4)
    augmentations = {
        "crop.size_px": Augmentations.of({"crop.size_px": CROP}),
        "crop.padding_px 16": Augmentations.of({"crop.padding_px": 16}),
        "crop.scale_min 0.2": Augmentations.of({"crop.scale_min": 0.2}),
        "flip": Augmentations.of({"flip.enabled": True}),
        "randaugment": Augmentations.of({"randaugment.num_operations": 2, "randaugment.magnitude": 9.0}),
        "color_jitter": Augmentations.of({f"color_jitter.{name}": 0.1 if name == "hue" else 0.4 for name in JITTERED}),
        "erasing": Augmentations.of({"erasing.probability": 1.0}),
    }
    draw = jax.jit(augment, static_argnums=2)
    rows = {name: list(map(np.asarray, draw(key, copies, change))) for name, change in augmentations.items()}
    pair = jnp.stack([house, boat])
    for name, alpha in (("mixup", 1.0), ("cutmix", 1.0)):
        keys = jax.random.split(key, DRAWS)
        rows[name] = [np.asarray(jax.jit(mix)(each, pair, {name: jnp.float32(alpha)})[0][0]) for each in keys]
    rows["test_crops 'ten'"] = list(map(np.asarray, ten_crops(house[None], CROP)[0, :DRAWS]))
    save("augmentation.png", {name: [np.asarray(house), *pictures] for name, pictures in rows.items()})

    operations = list(RANDAUGMENT)
    halves = operations[:7], operations[7:]
    sign = jnp.float32(1)
    pictures = [[np.asarray(RANDAUGMENT[name](house, 0.5, sign)) for name in half] for half in halves]
    save("randaugment.png", {"": pictures[0], " ": pictures[1]}, [list(half) for half in halves])


if __name__ == "__main__":
    main()
