"""Drawing of images: from the config section to the images, their split and its manifest.

The images are read (fields `data` and `union`). Then the data factors are applied in the order of the registry
(`jaxft.data.sampling.factors`). A manifest is a split as JSON: with the field `manifest`, it replaces all random draws
and recreates the split exactly. Factors that change pixels are applied with a manifest too.
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
    """Returns the images of `spec` and their split, drawn with a seed or recreated from the manifest of `spec`.

    Args:
      spec: the images.
      seed: seed of all draws.
      size_px: side of the images, in pixels. If None, `spec.size_px`; if that is None too, images keep their size.
      where: config field of `spec`, for error messages.
      fold: number of the validation fold, from 0; used only with `spec.val_fraction`.
      reader: a reader that keeps the image sets of earlier draws. If None, a new reader, which reads all images.

    Raises:
      UserError: the images cannot be read or are too few for the draws, the manifest does not fit the images, or a data
        factor is given that the manifest replaces.
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
                f"'{where}.manifest' determines the images and their labels; remove '{where}.{entry.name}'."
            )
    return SampledImages(
        images=draft.images,
        split=draft.split,
        requested=spec,
        spec=draft.spec,
        seed=seed,
        fold=0 if manifest else fold,
        original=draft.original,
        merged=draft.merged,
    )
