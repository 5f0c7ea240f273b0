"""From what a config says of images to the images, their split and its manifest.

Images are read (`data` and `union`), then the data factors are applied in the order of their registry (`factors`). A
manifest is a split as JSON, which recreates it exactly: `manifest` takes the place of all that is drawn. Pixels are
changed as the config says, with a manifest too.
"""

from jaxft.config import Images
from jaxft.config.sections import sections_of
from jaxft.core.errors import UserError
from jaxft.core.registries import DATA_FACTORS
from jaxft.data.sampling.draft import Draft
from jaxft.data.sampling.manifests import read_manifest, recreate
from jaxft.data.sampling.reading import ImageReader
from jaxft.data.sampling.sampled_images import SampledImages
from jaxft.data.sampling.splits import no_split


def draw(
    spec: Images,
    seed: int,
    size_px: int | None = None,
    where: str = "target",
    fold: int = 0,
    reader: ImageReader | None = None,
) -> SampledImages:
    """Returns the images of `spec` and their split, as drawn by a seed, or as its manifest has them.

    Args:
      size_px: side of the images; if None, `spec.size_px`, or their own.
      where: the config's field that `spec` is, for errors.
      fold: which share of `spec.val_fraction` is selected on.
      reader: has the image sets that were read for other draws.

    Raises a `UserError` where something cannot be drawn.
    """
    manifest = None if spec.manifest is None else read_manifest(spec.manifest)
    reader, size_px = reader or ImageReader(), size_px or spec.size_px
    images = reader.read(spec, size_px)
    draft = Draft(spec, seed, fold, where, size_px, reader, images, {}, images, no_split(images)).with_spec(spec)
    if manifest is not None:
        draft = recreate(draft, manifest)
    sections = sections_of(spec)
    for entry in DATA_FACTORS.values():
        options = sections.get(entry.name, draft.spec)
        if manifest is None or not entry.value.is_drawn:
            draft = entry.value.apply(draft, options)
        elif entry.section is not None and options != entry.section():
            raise UserError(
                f"'{where}.manifest' says which images are used with which labels; leave '{where}.{entry.name}' out."
            )
    return SampledImages(
        images=draft.images,
        split=draft.split,
        requested=spec,
        spec=draft.spec,
        seed=seed,
        fold=0 if manifest else fold,
        kept=draft.kept,
        merged=draft.merged,
    )
