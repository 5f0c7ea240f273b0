"""Labelled images as uint8 arrays: scikit-learn's digits, .npz files, folders and zip archives of class folders.

Pictures are decoded once, at the size a study works at, and kept in the user's cache folder under the fingerprint
of their bytes, the resizer and the size (`$JAXFT_CACHE` names another folder).
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import io
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxft.config import Images
from jaxft.errors import UserError, did_you_mean
from jaxft.store import cache_dir, replacing

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which it warns of a decompression bomb
RESIZER = "pillow-bilinear-shorter-side-centre-crop-1"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, all of one size.

    Attributes:
      images: [n, size, size, 3] uint8, RGB.
      labels: [n] int32, indices into `class_names`.
      class_names: names of the classes that were kept.
      ids: [n] a name for each image that does not depend on which classes were kept.
      parts: [n] 'train', 'val' or 'test' as the data set divides itself, else ''.
      fingerprint: what identifies the content: bytes, classes, size and resizer.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    parts: np.ndarray
    fingerprint: str


def load_images(spec: Images, size_px: int | None) -> ImageSet:
    """Returns the images that `spec` names, at `size_px` (arrays keep their own size where it is None).

    A picture's shorter side is resized (bilinear with antialiasing, Pillow) and the centre cut out.

    Raises a `UserError` where the data are missing or empty, have fewer than two classes, or hold a picture that
    cannot be read; the message names it.
    """
    if spec.data == "digits":
        everything = _digits(size_px)
    else:
        path = Path(spec.data)
        if not spec.data or not path.exists():
            raise UserError(
                f"there are no images at {spec.data!r}; allowed: 'digits', an .npz file, a folder or a zip."
            )
        if path.suffix == ".npz":
            everything = _npz(path, size_px)
        elif path.is_dir():
            everything = _pictures(path, folder_members(path), size_px)
        elif zipfile.is_zipfile(path):
            try:
                with zipfile.ZipFile(path) as archive:
                    everything = _pictures(path, zip_members(archive), size_px)
            except zipfile.BadZipFile as error:
                raise UserError(f"{spec.data!r} cannot be read as a zip archive: {error}.") from None
        else:
            raise UserError(f"{spec.data!r} is neither an .npz file, a folder nor a zip of class folders.")
    if spec.classes is not None and len(set(spec.classes)) < max(2, len(spec.classes)):
        raise UserError(f"classes {list(spec.classes)} of {spec.data!r}: name two or more, none twice.")
    kept = _keep_classes(everything, spec)
    if len(kept.class_names) < 2:
        raise UserError(
            f"{spec.data!r} has one class only, {kept.class_names[0]!r}; "
            "classification needs two folders of images, or more."
        )
    return kept


def _keep_classes(images: ImageSet, spec: Images) -> ImageSet:
    if spec.classes is None:
        return images
    for name in spec.classes:
        if name not in images.class_names:
            raise UserError(
                f"{spec.data!r} has no class {name!r}{did_you_mean(name, images.class_names)}; "
                f"it has {', '.join(images.class_names[:12])}{', ...' if len(images.class_names) > 12 else ''}."
            )
    chosen = [label for label, name in enumerate(images.class_names) if name in spec.classes]
    relabel = np.full(len(images.class_names), -1, np.int32)
    relabel[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(relabel[images.labels] >= 0)
    names = tuple(images.class_names[label] for label in chosen)
    return ImageSet(
        images.images[rows],
        relabel[images.labels[rows]],
        names,
        tuple(images.ids[row] for row in rows),
        images.parts[rows],
        _fingerprint([images.fingerprint, *names]),
    )


# --- arrays -----------------------------------------------------------------------------------------------------


def _digits(size_px: int | None) -> ImageSet:
    """Returns scikit-learn's digits: 1,797 scans of 8 x 8 pixels with 17 grey levels (UCI; Alpaydin & Kaynak 1998)."""
    package = importlib.util.find_spec("sklearn")  # to import it takes a second
    assert package is not None and package.submodule_search_locations
    table = np.loadtxt(Path(package.submodule_search_locations[0], "datasets/data/digits.csv.gz"), delimiter=",")
    grey = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    names = tuple(str(digit) for digit in range(10))
    return _from_arrays(grey, table[:, -1].astype(np.int64), names, np.full(len(grey), ""), size_px)


def _npz(path: Path, size_px: int | None) -> ImageSet:
    """Returns the images of an .npz file: `images` and `labels`, or those of each part: `train_images`, ..."""
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{str(path)!r} cannot be read as an .npz file of plain arrays: {error}.") from None
    parts = [part for part in ("", "train", "val", "test") if _key(part, "images") in arrays]
    if not parts:
        raise UserError(f"{str(path)!r} has no 'images', nor 'train_images'; it has {', '.join(arrays) or 'nothing'}.")
    images, labels, where = [], [], []
    for part in parts:
        pixels, classes = arrays[_key(part, "images")], arrays.get(_key(part, "labels"))
        name = f"{str(path)!r}: {_key(part, 'images')!r}"
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (3, 4)
            or (pixels.ndim == 4 and pixels.shape[-1] not in (1, 3))
            or 0 in pixels.shape[1:]
        ):
            raise UserError(
                f"{name} is {pixels.dtype} {list(pixels.shape)}; it must be uint8 [n, height, width (, 3)]."
            )
        if classes is None or classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer):
            raise UserError(f"{name} needs whole-numbered {_key(part, 'labels')!r}, one an image.")
        images.append(pixels)
        labels.append(classes.astype(np.int64))
        where.append(np.full(len(pixels), part))
    all_labels = np.concatenate(labels)
    if not len(all_labels):
        raise UserError(f"{str(path)!r} has no images in it.")
    num_classes = int(all_labels.max()) + 1
    class_names = arrays.get("class_names", np.arange(num_classes))
    if class_names.ndim != 1:
        raise UserError(f"{str(path)!r}: 'class_names' is {list(class_names.shape)}; it must be a list of names.")
    names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in class_names.tolist())
    if all_labels.min() < 0 or num_classes > len(names):
        raise UserError(
            f"{str(path)!r} has labels from {all_labels.min()} to {num_classes - 1} for {len(names)} classes."
        )
    return _from_arrays(np.concatenate(images), all_labels, names, np.concatenate(where), size_px)


def _key(part: str, name: str) -> str:
    return f"{part}_{name}" if part else name


def _from_arrays(
    pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...], parts: np.ndarray, size_px: int | None
) -> ImageSet:
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    size = size_px or min(pixels.shape[1:3])
    shape = f"{pixels.shape}".encode()
    content = hashlib.sha256(
        shape + np.ascontiguousarray(pixels).tobytes() + labels.astype(np.int64).tobytes()
    ).hexdigest()
    if pixels.shape[1:3] != (size, size):
        from PIL import Image

        pixels = np.stack([_fit(Image.fromarray(image), size) for image in pixels])
    ids = tuple(f"{part}/{i}" for i, part in enumerate(parts))
    fingerprint = _fingerprint([content, *names, *parts, str(size), RESIZER])
    return ImageSet(pixels, labels.astype(np.int32), names, ids, parts, fingerprint)


# --- pictures ---------------------------------------------------------------------------------------------------

Member = tuple[PurePosixPath, Callable[[], bytes]]


def folder_members(path: Path) -> list[Member]:
    """Returns the files below a folder: their names within it, and how to read each."""
    files = (p for p in path.rglob("*") if p.is_file())
    return [(PurePosixPath(p.relative_to(path).as_posix()), p.read_bytes) for p in files]


def zip_members(archive: zipfile.ZipFile) -> list[Member]:
    """Returns the files in an archive: their names, and how to read each while it is open."""
    files = (info for info in archive.infolist() if not info.is_dir())
    return [(PurePosixPath(info.filename), functools.partial(archive.read, info)) for info in files]


def _pictures(path: Path, members: list[Member], size_px: int | None) -> ImageSet:
    size = size_px or 32
    members = [(name, read) for name, read in members if is_picture(name)]
    if not members:
        raise UserError(f"{str(path)!r} has no images in it ({', '.join(sorted(SUFFIXES))}).")
    while all(len(name.parts) > 2 for name, _ in members) and len({name.parts[0] for name, _ in members}) == 1:
        if members[0][0].parts[0].lower() in PARTS:
            break
        members = [(PurePosixPath(*name.parts[1:]), read) for name, read in members]
    members.sort(key=lambda member: member[0].parts)  # one order, whatever they came in
    places = [_place(name, path) for name, _ in members]
    names = tuple(sorted({class_name for _, class_name in places}))
    labels = np.array([names.index(class_name) for _, class_name in places], np.int32)
    parts = np.array([part for part, _ in places])

    contents = _in_threads(lambda member: hashlib.sha256(member[1]()).hexdigest(), members, path)
    ids = tuple(str(name) for name, _ in members)
    fingerprint = _fingerprint([*(f"{i} {content}" for i, content in zip(ids, contents)), str(size), RESIZER])
    images = _decoded(path, members, size, fingerprint)
    return ImageSet(images, labels, names, ids, parts, fingerprint)


def is_picture(name: PurePosixPath) -> bool:
    """Tells whether a file is a picture by its name, and not hidden."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
    return not hidden and name.suffix.lower() in SUFFIXES


def _place(name: PurePosixPath, path: Path) -> tuple[str, str]:
    """Returns the part and the class that a picture's folders tell."""
    folders = name.parts[:-1]
    if len(folders) == 2 and folders[0].lower() in PARTS:
        return PARTS[folders[0].lower()], folders[1]
    if len(folders) == 1:
        return "", folders[0]
    raise UserError(
        f"{str(path)!r} has the picture '{name}' outside of the layout class/picture or train|val|test/class/picture."
    )


def _decoded(path: Path, members: list[Member], size: int, fingerprint: str) -> np.ndarray:
    """Returns [n, size, size, 3] uint8, from the cache or decoded over all cores and kept there."""
    cached = cache_dir() / "images" / f"{fingerprint}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        images = np.load(cached, mmap_mode="r", allow_pickle=False)
        if images.shape == (len(members), size, size, 3):
            return images
    images = np.stack(_in_threads(lambda member: decode(member[1](), size), members, path))
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as temporary, temporary.open("wb") as file:
            np.save(file, images, allow_pickle=False)
    return images


def decode(content: bytes, size: int) -> np.ndarray:
    """Returns a picture as [size, size, 3] uint8; raises OSError or ValueError where it cannot be read whole."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # whose conversion would cut off all above 255
                upright = Image.fromarray(np.round(np.asarray(upright) / 257).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise ValueError(f"pixels of mode {upright.mode!r} have no range")
            return _fit(upright.convert("RGB"), size)
    except UnidentifiedImageError:  # whose message names a Python object
        raise ValueError("it has no known picture format") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"it is too large: {error}") from None
    except (SyntaxError, EOFError, IndexError, TypeError, OverflowError) as error:  # from broken headers
        raise ValueError(str(error)) from None


def _fit(image: Any, size: int) -> np.ndarray:
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def try_each(task: Callable[[Member], Any], members: Sequence[Member]) -> list[tuple[Any, str | None]]:
    """Returns the task's result for every member, worked out over all cores, or (None, why there is none)."""

    def attempt(member: Member) -> tuple[Any, str | None]:
        try:
            return task(member), None
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return None, _short(reason)

    # The filters are the process's, so they are set outside of the threads; `decode` refuses what is too large.
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.filterwarnings("ignore", "Image size .* exceeds limit")
        return list(pool.map(attempt, members))


def _in_threads(task: Callable[[Member], Any], members: list[Member], path: Path) -> list[Any]:
    """Returns the task's result for every member; one error names the members for which it failed."""
    results = try_each(task, members)
    bad = [f"'{name}' ({problem})" for (name, _), (_, problem) in zip(members, results) if problem is not None]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise UserError(
            f"{str(path)!r} holds {len(bad)} picture{'s' * (len(bad) > 1)} that cannot be read: "
            f"{', '.join(bad[:5])}{more}."
        )
    return [result for result, _ in results]


def _short(reason: str) -> str:
    return reason if len(reason) <= 90 else reason[:87] + "..."


def _fingerprint(parts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(str(part).encode() + b"\n")
    return total.hexdigest()[:32]
