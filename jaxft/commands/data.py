"""`jaxft data`: look at a set of images before it is used, or prepare one of TensorFlow Datasets."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from jaxft.core.errors import UserError
from jaxft.core.tables import format_table
from jaxft.recipes.check_data import check_data

if TYPE_CHECKING:
    from jaxft.data.checking import Finding, Report

HELP = "check a set of images: unreadable pictures, classes, duplicates; or prepare one of TFDS"

SHOWN = 5  # of each finding, on a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("action", choices=["check", "prepare"], help="what to do")
    parser.add_argument("data", metavar="DATA", help="a folder, archive, table or .npz file; 'digits'; tfds:NAME")
    parser.add_argument("--domain", action="append", metavar="NAME", help="check: this domain alone; may be repeated")
    parser.add_argument("--label", metavar="NAME", help="check: which labels, where images have several")
    parser.add_argument("--all", action="store_true", help=f"check: name every picture, not {SHOWN} of each kind")
    parser.add_argument("--json", action="store_true", help="check: print JSON, in which every picture is named")
    parser.add_argument("--dir", metavar="DIR", help="prepare: folder of prepared sets (default: $TFDS_DATA_DIR)")


def run(args: argparse.Namespace, overrides: list[str]) -> int:
    """Checks images, and returns 1 where something is wrong with them; or prepares a set."""
    for option in ("domain", "label", "all", "json"):
        if getattr(args, option) and args.action != "check":
            raise UserError(f"--{option} is for `jaxft data check`, not for {args.action!r}.")
    if args.dir and args.action != "prepare":
        raise UserError("--dir is for `jaxft data prepare`; $TFDS_DATA_DIR names the folder for all others.")
    if args.action == "prepare":
        if args.dir is not None:
            os.environ["TFDS_DATA_DIR"] = args.dir
        return _prepare(args.data)
    report = check_data(args.data, args.domain, args.label)
    if args.json:
        print(json.dumps(to_dict(report), indent=1))
    else:
        print_report(report, shown=None if args.all else SHOWN)
    return 0 if report.is_clean else 1


def _prepare(spec: str) -> int:
    from jaxft.data.readers import tfds

    if not spec.startswith(tfds.PREFIX):
        raise UserError(f"{spec!r} needs no preparing; sets of TensorFlow Datasets do: tfds:NAME.")
    tfds.prepare_apart(spec)
    print(f"{spec} is prepared in {tfds.find_prepared(spec)}")
    return 0


def to_dict(report: "Report") -> dict[str, object]:
    """Returns a report for JSON."""
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
                "items": [{"name": name, "what": what} for name, what in finding.items],
            }
            for finding in report.findings
        ],
    }


def print_report(report: "Report", shown: int | None) -> None:
    """Prints what a set of images has, then a row for each kind of finding, problems first, and the first of each."""
    _print(f"{report.data}: {report.num_pictures:,} pictures of {len(report.classes):,} classes")
    for what, counts in (("subsets", report.subsets), ("domains", report.domains)):
        if counts:
            _print(f"{what}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
    if not report.checks_damage:
        _print("damage within JPEG files that can still be read was not looked for: pip install 'jaxft[jpeg]'")
    for is_problem, heading in ((True, "problem"), (False, "seen to")):
        findings = [finding for finding in report.findings if finding.is_problem == is_problem]
        if not findings:
            continue
        rows = [row for finding in findings for row in _rows(finding, shown)]
        _print("\n" + format_table([heading, "how many", "which"], rows, numbers={1}, ruled=False))
    _print(f"\n{'nothing is wrong' if report.is_clean else 'something is wrong'} with these images.")


def _rows(finding: "Finding", shown: int | None) -> list[tuple[str, str, str]]:
    """Returns the rows of a finding, a picture each; the first names the finding and how many pictures it has."""
    which = [f"{name}: {what}" if what else name for name, what in finding.items[:shown]]
    if shown is not None and len(finding.items) > shown:
        which.append(f"and {len(finding.items) - shown:,} more (--all)")
    first = finding.kind, f"{len(finding.items):,}"
    return [(*(("", "") if i else first), picture) for i, picture in enumerate(which)]


def _print(text: str) -> None:
    """Prints a text; what a terminal cannot show, such as names that are no text, it shows as numbers."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
