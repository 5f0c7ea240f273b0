"""`jaxft data`: checks a data set before training, prepares a TensorFlow Dataset, or downloads published images."""

import argparse
import json
import os
from typing import TYPE_CHECKING

from jaxft.commands.getting import run_get
from jaxft.core.errors import UserError
from jaxft.core.printing import print_lines
from jaxft.core.tables import print_table
from jaxft.recipes.check_data import check_data

if TYPE_CHECKING:
    from jaxft.data.checking import Finding, Report

HELP = "check a data set for unreadable images, misspelled classes and duplicates, or download images"

SHOWN = 5  # images that are listed for each finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "action",
        choices=["check", "prepare", "get"],
        help="'check' reports problems; 'prepare' downloads and prepares a TensorFlow Dataset; 'get' downloads "
        "published images by name, such as intel-scenes-6",
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a folder or archive of images, a table of files and labels, an .npz file, 'digits' (of scikit-learn), or "
        "tfds:NAME (a TensorFlow Dataset); get: name of published images",
    )
    parser.add_argument("more", metavar="NAME", nargs="*", help="get: more names of published images")
    parser.add_argument(
        "--domain", action="append", metavar="NAME", help="check: only this domain of the data; can be repeated"
    )
    parser.add_argument(
        "--label", metavar="NAME", help="check: name of the labels, if the data has several kinds of labels"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"check: list all images of a finding, not the first {SHOWN}"
    )
    parser.add_argument("--json", action="store_true", help="check: print JSON, which lists all images")
    parser.add_argument("--dir", metavar="DIR", help="prepare: folder for the prepared data (default: $TFDS_DATA_DIR)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Checks the images, or prepares a data set. Returns 1 if the check finds a problem.

    Raises:
      UserError: an option belongs to the other action, or the data cannot be used.
    """
    for option in ("domain", "label", "all", "json"):
        if getattr(args, option) and args.action != "check":
            raise UserError(f"--{option} belongs to `jaxft data check`, not to `jaxft data {args.action}`.")
    if args.dir and args.action != "prepare":
        raise UserError("--dir belongs to `jaxft data prepare`; other commands read the folder from $TFDS_DATA_DIR.")
    if args.action == "get":
        return run_get("data", [args.data, *args.more])
    if args.more:
        raise UserError(f"{args.more[0]!r} is one argument too many for `jaxft data {args.action}`.")
    if args.action == "prepare":
        if args.dir is not None:
            os.environ["TFDS_DATA_DIR"] = args.dir
        return _prepare(args.data)
    report = check_data(args.data, args.domain, args.label)
    if args.json:
        print_lines(*json.dumps(to_dict(report), indent=1).split("\n"))
    else:
        print_report(report, shown=None if args.all else SHOWN)
    return 0 if report.is_clean else 1


def _prepare(spec: str) -> int:
    from jaxft.data.readers import tfds

    if not spec.startswith(tfds.PREFIX):
        raise UserError(f"{spec!r} cannot be prepared; `jaxft data prepare` takes a TensorFlow Dataset, tfds:NAME.")
    tfds.prepare_apart(spec)
    print_lines(f"{spec} is prepared in {tfds.find_prepared(spec)}")
    return 0


def to_dict(report: "Report") -> dict[str, object]:
    """Returns a report as a dict for JSON."""
    return {
        "data": report.data,
        "pictures": report.num_pictures,
        "classes": dict(report.classes),
        "subsets": dict(report.subsets),
        "domains": dict(report.domains),
        "clean": report.is_clean,
        "checks_damage": report.checks_damage,
        "findings": [
            {
                "kind": finding.kind,
                "problem": finding.is_problem,
                "items": [{"name": name, "what": detail} for name, detail in finding.items],
            }
            for finding in report.findings
        ],
    }


def print_report(report: "Report", shown: int | None) -> None:
    """Prints the counts of a data set, then a table of problems and a table of notes.

    Args:
      report: the report.
      shown: how many images to list for each finding. If None, all.
    """
    print_lines(f"{report.data}: {report.num_pictures:,} images of {len(report.classes):,} classes")
    for heading, counts in (("splits", report.subsets), ("domains", report.domains)):
        if counts:
            print_lines(f"{heading}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
    if not report.checks_damage:
        print_lines(
            "not checked: damage in JPEG files that can still be decoded. To check it: pip install 'jaxft[jpeg]'"
        )
    for is_problem, heading in ((True, "problem"), (False, "note")):
        findings = [finding for finding in report.findings if finding.is_problem == is_problem]
        if not findings:
            continue
        rows = [row for finding in findings for row in _rows(finding, shown)]
        print_lines("")
        print_table([heading, "count", "images or classes"], rows, numbers={1}, ruled=False)
    print_lines("", f"{'No problems found.' if report.is_clean else 'Problems found: see the first table.'}")


def _rows(finding: "Finding", shown: int | None) -> list[tuple[str, str, str]]:
    """Returns one row per listed image of a finding. The first row also has the kind of the finding and its count."""
    listed = [f"{name}: {detail}" if detail else name for name, detail in finding.items[:shown]]
    if shown is not None and len(finding.items) > shown:
        listed.append(f"and {len(finding.items) - shown:,} more (--all)")
    first = finding.kind, f"{len(finding.items):,}"
    return [(*(("", "") if i else first), item) for i, item in enumerate(listed)]
