"""Short names of config fields, for tables and figures."""

NAMES_THE_SECTION = {"name", "shape", "kind", "start", "enabled", "strength", "rate", "alpha", "probability"}
NEEDS_THE_SECTION = {
    *("size", "rates", "decay", "count", "head", "transferred", "weights", "statistics", "affine", "rules", "scaling"),
    *("temperature", "magnitude", "scale_min", "padding_px", "beta"),
}


def label(dotted: str) -> str:
    """Returns a field's short name, as words: 'optimizer' for 'training.optimizer.name', 'batches size', 'momentum'.

    It is the field's own name, with its section where that alone would not tell which field is meant.
    """
    *sections, last = dotted.split(".")
    section = sections[-1] if len(sections) > 1 or sections[:1] == ["training"] else ""
    if section and last in NAMES_THE_SECTION:
        words = section
    elif section and (last in NEEDS_THE_SECTION or section == "linear_probe"):
        words = f"{section} {last}"
    else:
        words = last
    return words.replace("_", " ")
