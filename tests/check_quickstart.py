"""Checks what the quickstart wrote: `python tests/check_quickstart.py DIR [SEEDS]`; exit code 1 where it is wrong."""

import sys
from pathlib import Path

import pandas as pd

import jaxft


def main(workdir: Path, num_seeds: int) -> None:
    """Checks the results, the tables and the page of the quickstart in `workdir`."""
    results = jaxft.load_results(workdir)
    assert len(results) == 9 * num_seeds and (results["status"] == "done").all(), results["status"].value_counts()
    means = results.groupby(["training.initialization.start", "training.layers.backbone_learning_rate"])[
        "test_accuracy"
    ].mean()
    print((100 * means).round(1).to_string())
    # The directions that the config's docstring expects: pretrained beats random over the shared grid, and a body that
    # moves at a moderate rate beats a frozen one.
    rates = [0.001, 0.01, 0.1, 1.0]
    assert (means["pretrained"][rates].mean() - means["random"][rates].mean()) > 0.05
    assert means["pretrained"][0.1] > means["pretrained"]["frozen"] > 0.4  # chance is 20%
    tuned = results.query(
        "`training.initialization.start` == 'pretrained' and `training.layers.backbone_learning_rate` == 0.1"
    )
    frozen = results.query("`training.layers.backbone_learning_rate` == 'frozen'")
    assert (frozen["relative_change"] == 0).all() and (tuned["relative_change"] > 0).all()
    assert pd.read_csv(workdir / "results.csv")["trial"].tolist() == results["trial"].tolist()
    assert pd.read_parquet(workdir / "results.parquet")["trial"].tolist() == results["trial"].tolist()
    page = (workdir / "report.html").read_text()
    assert all(digest in page for digest in results["trial"]) and page.count("<svg") >= 10


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
