"""Measures the time of augmentation as a fraction of a training step of ResNet-18, at 32 and at 224 px.

    python benchmarks/augment.py

The augmentation of a batch and the training step of the same batch are compiled separately and run alternately, for
several rounds; the fraction is the ratio of the medians. Each augmentation is also measured alone (at 224 px after a
crop), and the step is measured with all augmentations inside its program, as in training. For 224 px, the images have
256 px and the network is the usual ResNet-18; for 32 px, its stem is a 3x3 convolution. Crop, flip and normalization
should take less than a twentieth of a step, and all augmentations less than a fifth. The script needs PyTorch, because
it uses functions of the other benchmarks. The machine should be idle.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from convolution import ResNet18, batch, compare, compiled, init, make_step
from finetune import environment

from jaxft.data.augmentation.augment import Augmentations, augment
from jaxft.data.augmentation.mixing import mix
from jaxft.models import Preprocessing, create_model

OUT = Path(__file__).resolve().parent / "results" / "augment.json"
BARS = {"crop, flip, normalization": 1 / 20, "resized crop, flip, normalization": 1 / 20, "everything": 1 / 5}
ALPHAS = {"mixup": jnp.float32(0.2), "cutmix": jnp.float32(1.0)}
SETTINGS = (  # number of images, side and crop side in px
    (32, 32, 32),
    (8, 256, 224),
)


def every_change(side: int, crop: int) -> dict[str, Augmentations]:
    """Returns the measured augmentations by name: the usual ones together, all together, and each alone."""
    plain = {"crop.padding_px": 4} if side == crop else {"crop.size_px": crop}
    resized = {"crop.scale_min": 0.08, "crop.size_px": crop}
    flip, erasing, cropped = {"flip.enabled": True}, {"erasing.probability": 1.0}, {"crop.size_px": crop}
    jitter = dict.fromkeys((f"color_jitter.{name}" for name in ("brightness", "contrast", "saturation")), 0.4)
    jitter["color_jitter.hue"] = 0.1
    rand = {"randaugment.num_operations": 2, "randaugment.magnitude": 9.0}
    fields = {
        "crop, flip, normalization": plain | flip,
        "resized crop, flip, normalization": resized | flip,
        "everything": resized | flip | jitter | erasing | rand,
        "crop": plain,
        "resized crop": resized,
        "RandAugment": cropped | rand,
        "color jitter": cropped | jitter,
        "erasing": cropped | erasing,
        "mixup, cutmix": cropped,
    }
    return {name: Augmentations.of(each) for name, each in fields.items()}


def make_prepare(
    augmentations: Augmentations, preprocessing: Preprocessing, mixes: bool
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns a function from (key, images) to the network input and the weight of the original label."""

    def prepare(key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, own = augment(key, images, augmentations), jnp.float32(1)
        if mixes:
            x, own = mix(jax.random.fold_in(key, 3), x, ALPHAS)
        return preprocessing.apply(x), own

    return prepare


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """Returns the time fractions by name, with the underlying seconds."""
    results: dict[str, dict[str, Any]] = {}
    for count, side, crop in SETTINGS:
        network = ResNet18(64) if crop == 32 else create_model("resnet18", 10)
        preprocessing = Preprocessing(crop, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        inputs, labels = batch(count, crop)
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        key, images, state, step = jax.random.key(0), jnp.asarray(pixels), init(network, inputs), make_step(network)
        alone = compiled(step, state, jnp.asarray(inputs), jnp.asarray(labels))
        for name, augmentations in every_change(side, crop).items():
            prepare = make_prepare(augmentations, preprocessing, name in ("everything", "mixup, cutmix"))
            where = f"{name}: {count} x {crop} px"
            results[where] = compare(where, {"changes": compiled(prepare, key, images), "step": alone}, rounds)
            if name in BARS:
                results[where] |= {"bar": BARS[name], "within": results[where]["ratio"] < BARS[name]}

        everything = make_prepare(every_change(side, crop)["everything"], preprocessing, True)

        def whole(
            state: Any,
            key: jax.Array,
            images: jax.Array,
            labels: jax.Array,
            step: Callable[..., Any] = step,
            prepare: Callable[..., Any] = everything,
        ) -> Any:
            x, own = prepare(key, images)
            return step(state, x, labels), own

        where = f"a step with everything inside / without: {count} x {crop} px"
        ways = {"with": compiled(whole, state, key, images, jnp.asarray(labels)), "without": alone}
        results[where] = compare(where, ways, rounds)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one line per comparison, and writes the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    results = measure(args.rounds)
    for name, found in results.items():
        bar = ""
        if "bar" in found:
            bar = f", {'below' if found['within'] else 'NOT below'} {found['bar']:.0%}"
        print(f"{name}: {found['ratio']:.2%}{bar}")
    record = {"results": results, "load_before": load_before, "rounds": args.rounds, **environment()}
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
