"""Reads foreign weight files, ports them by table, and writes them back in the layout they came in.

Weights are data, never code: safetensors. A file that somebody published is known by its name and size, and must
then have its published sha256; a file written here carries a digest of its tensors. Either way a flipped bit is an
error. What a network needs to know besides its numbers (class names, preprocessing, origin) travels with them in
a `Manifest`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxft import paths
from jaxft.errors import UserError
from jaxft.models import Network, Preprocessing, published
from jaxft.models.class_names import CLASS_NAMES
from jaxft.models.contract import Port

METADATA_KEY = "jaxft"
MANIFEST_FIELDS = ("model", "preprocessing", "class_names", "origin", "layout", "assumed")
MOST_NAMED = 50  # mismatches in one message
Variables = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What belongs to a set of weights besides its numbers.

    `layout` is that of the file: 'torch' has convolutions OIHW and dense layers [out, in], 'keras' has ours. `metadata`
    is the file's own (safetensors' `__metadata__`), kept so that an export has it again. `assumed` says that the file
    told nothing, and the architecture's usual preprocessing was taken.
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

    def to_json(self) -> str:
        """Returns the manifest as it is kept inside a file."""
        fields = dataclasses.asdict(self)
        return json.dumps({name: fields[name] for name in MANIFEST_FIELDS})


def load_weights(path: str | Path, model: Network, head: Literal["load", "new"] = "load", key: Any = None) -> Variables:
    """Returns the variables of `model` (`params`, `batch_stats`) ported from the weight file at `path`.

    Args:
      path: a safetensors file in the published layout of the model's family.
      model: a network from `create_model`.
      head: 'load' takes the file's classifier; 'new' leaves it out and initialises one of the model's own
        `num_classes` from `key` (`jax.random.key(0)` where none is given).

    A counter of batches that the file has is kept as the collection `counters`, for the way back.

    Raises:
      UserError: the file is missing, truncated or altered, or any tensor is missing, left over or of the wrong
        shape; the message names all of them.
    """
    return load(path, model, head, key)[0]


def load(
    path: str | Path,
    model: Network,
    head: Literal["load", "new"] = "load",
    key: Any = None,
    size_px: int | None = None,
) -> tuple[Variables, Manifest]:
    """Returns what `load_weights` returns, and the manifest; a new head is made for images of `size_px`."""
    if head not in ("load", "new"):
        raise UserError(f"head is {head!r}; allowed: 'load' or 'new'.")
    tensors, manifest = read_file(path, model)
    flat = port(tensors, model, manifest, head)
    if head == "new":
        import jax

        fresh = init_head(model, jax.random.key(0) if key is None else key, size_px or manifest.preprocessing.size_px)
        flat |= paths.flatten(fresh)
    import jax.numpy as jnp

    kept = {name: leaf if name.startswith("counters/") else jnp.asarray(leaf) for name, leaf in flat.items()}
    return paths.unflatten(kept), manifest


def save_weights(
    path: str | Path, model: Network, variables: Mapping[str, Any], manifest: Manifest | None = None
) -> None:
    """Writes variables to `path` as safetensors in the published layout of the model's family.

    Loaded and saved again, every tensor has the bits it came with. The manifest (`load` returns it) goes into the
    file's metadata. Without one the class names and the preprocessing are lost: the file says that the model's usual
    preprocessing is assumed.
    """
    from safetensors.numpy import save_file

    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {str(Path(path).parent)!r} to save {Path(path).name!r} in.")
    if manifest is None:
        usual = dataclasses.replace(model.preprocessing, size_px=fitting_size(model, variables))
        manifest = Manifest(Path(path).name, "", model.architecture, usual, layout=model.layout, assumed=True)
    tensors = to_foreign(model, variables)
    record = json.loads(manifest.to_json()) | {"tensors_sha256": digest_of(tensors)}
    record["record_sha256"] = _digest_of_record(record)
    save_file(tensors, str(path), metadata=dict(manifest.metadata) | {METADATA_KEY: json.dumps(record)})


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


def init_variables(model: Network, key: Any, size_px: int) -> Variables:
    """Returns freshly drawn variables of `model` for images of `size_px`."""
    return _make_init(model, size_px)(key)


def init_head(model: Network, key: Any, size_px: int) -> Variables:
    """Returns the head's part of what `init_variables` draws; it compiles in a tenth of the time."""
    return _make_init_head(model, size_px)(key)


@functools.cache
def _make_init(model: Network, size_px: int) -> Callable[[Any], Variables]:
    import jax
    import jax.numpy as jnp

    return jax.jit(lambda key: model.init(key, jnp.zeros((1, size_px, size_px, 3), jnp.float32)))


@functools.cache
def _make_init_head(model: Network, size_px: int) -> Callable[[Any], Variables]:
    import jax
    import jax.numpy as jnp

    *_, last, head = model.units
    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    x = jax.eval_shape(lambda key, x: model.init_with_output(key, x, stop=last)[0], jax.random.key(0), images)
    return jax.jit(lambda key: model.init(key, jnp.zeros(x.shape, x.dtype), start=head))


@functools.cache
def expected_shapes(model: Network, size_px: int) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every leaf of the model's variables, by name, for images of `size_px`."""
    import jax
    import jax.numpy as jnp

    images = jax.ShapeDtypeStruct((1, size_px, size_px, 3), jnp.float32)
    try:
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{model.architecture} cannot take images of {size_px} px: {str(error).splitlines()[0]}."
        ) from None
    flat = {name: tuple(leaf.shape) for name, leaf in paths.flatten(shapes).items()}
    if any(0 in shape for shape in flat.values()):
        raise UserError(f"{model.architecture} cannot take images of {size_px} px: nothing of them reaches the head.")
    return flat


def is_head(name: str, model: Network) -> bool:
    """Tells whether the leaf `name` (with its collection, `params/head/kernel`) belongs to the head."""
    return name.partition("/")[2].startswith(model.units[-1] + "/")


# --- reading ----------------------------------------------------------------------------------------------------


def read_file(path: str | Path, model: Network) -> tuple[dict[str, np.ndarray], Manifest]:
    """Returns the tensors of a weight file by their foreign names, and its manifest, after checking the file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weight file {str(path)!r}.")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = _published_manifest(path, sha256, model.layout)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"the weight file {str(path)!r} is truncated or no safetensors file ({error}).") from None
    others = tuple(sorted((name, text) for name, text in metadata.items() if name != METADATA_KEY))
    if manifest is not None:
        manifest = dataclasses.replace(manifest, metadata=others)
    elif METADATA_KEY in metadata:
        record = read_record(path, metadata[METADATA_KEY])
        if digest_of(tensors) != record["tensors_sha256"]:
            raise UserError(f"the weight file {str(path)!r} is damaged: its tensors differ from those written.")
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
        )
    else:
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
    return tensors, manifest


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
        only_head = head == "load" and all("params/" + model.units[-1] + "/" in problem for problem in problems)
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
