"""Short names of config fields, for tables and figures."""

NAMES_THE_SECTION = {"name", "shape", "kind", "start", "enabled", "strength", "rate", "alpha", "probability"}
NEEDS_THE_SECTION = {
    *("size", "rates", "decay", "count", "head", "transferred", "weights", "statistics", "affine", "rules", "scaling"),
    *("temperature", "magnitude", "scale_min", "padding_px", "beta"),
}


def label(dotted: str) -> str:
    """Returns the short name of a config field, in words: 'optimizer' for 'training.optimizer.name', or 'momentum'.

    It is the last part of the dotted name. If this is ambiguous, the section precedes it ('batches size') or replaces
    it ('optimizer').
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
