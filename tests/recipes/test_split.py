"""`jaxft split`: manifests of the splits of a study."""

import json

import pytest

import jaxft
from jaxft.config import Study, from_dict
from jaxft.recipes.split import export_splits

STUDY = from_dict(
    Study,
    {
        "source": {"model": "cifar_resnet8"},
        "target": {"data": "digits", "test_fraction": 0.2},
        "training": {"initialization": {"start": "random"}},
        "streams": {"split": 0},
        "seeds": [0],
    },
)


def test_manifests_are_written_again_identically_and_edited_ones_are_kept(tmp_path):
    (digest,) = export_splits(STUDY, tmp_path, quiet=True)
    path = tmp_path / f"{digest}.json"
    written = path.read_bytes()
    export_splits(STUDY, tmp_path, quiet=True)
    assert path.read_bytes() == written
    edited = json.dumps({name: value for name, value in json.loads(written).items() if name != "digest"})
    path.write_text(edited)
    with pytest.raises(jaxft.UserError, match=r"exists; name another one, or replace it with --force"):
        export_splits(STUDY, tmp_path, quiet=True)
    assert path.read_text() == edited
    export_splits(STUDY, tmp_path, quiet=True, force=True)
    assert path.read_bytes() == written
