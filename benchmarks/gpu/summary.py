"""Judges the records of all parts, and writes them as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import PARTS
from benchmarks.gpu.records import Record

Report = dict[str, Any]


def new_report(device: Mapping[str, Any]) -> Report:
    """A report without parts."""
    return {
        "device": dict(device),
        "values_are_real": device.get("values_are_real"),
        "passed": False,
        "complete": False,
        "parts": {},
    }


def new_part(number: int, seconds: float) -> dict[str, Any]:
    """A part's entry, before it has ended."""
    title = PARTS[number].title
    empty: dict[str, Any] = {"checks": [], "facts": {}, "skipped": [], "refused": []}
    return {"title": title, "limit_s": round(seconds, 1), "state": "running", **empty}


def add(part: dict[str, Any], record: Record) -> None:
    """Add a record to a part's entry."""
    kind = record["kind"]
    content = {key: value for key, value in record.items() if key != "kind"}
    if kind == "check":
        part["checks"].append(content)
    elif kind == "fact":
        part["facts"][record["name"]] = record["value"]
    elif kind in ("skipped", "refused"):
        part[kind].append(content)
    elif kind == "error":
        check = {"name": "the part ends", "found": record["text"], "wanted": "no error"}
        part["checks"].append({**check, "passed": False})


def failures(report: Report) -> list[tuple[str, dict[str, Any]]]:
    """The failed checks of all parts, with their part's number."""
    return [
        (number, check)
        for number, part in report["parts"].items()
        for check in part["checks"]
        if check["passed"] is False
    ]


def write(report: Report, folder: Path) -> None:
    """Write gpu.json and summary.txt, each as a whole or not at all."""
    report["passed"] = not failures(report)
    for name, text in (
        ("gpu.json", json.dumps(report, indent=1, default=str) + "\n"),
        ("summary.txt", as_text(report)),
    ):
        unfinished = folder / f".{name}.part"
        unfinished.write_text(text)
        unfinished.replace(folder / name)


def as_text(report: Report) -> str:
    """The report for people: failed checks first, then every part."""
    failed, device = failures(report), report["device"]
    lines = [str(device.get("name", "no CUDA device"))]
    if report["values_are_real"] is False:
        lines.append("A REHEARSAL: this device returns no real values. No figure below is one.")
    checks = [check for part in report["parts"].values() for check in part["checks"]]
    unjudged = sum(check["passed"] is None for check in checks)
    skipped = sum(len(part["skipped"]) for part in report["parts"].values())
    lines.append(
        f"{len(checks)} checks: {len(failed)} failed, {unjudged} not judged;"
        f" {skipped} entries skipped" + ("" if report["complete"] else "; not complete")
    )
    for number, check in failed:
        lines.append(f"FAILED {number}: {check['name']}")
        lines.append(f"    found {_short(check['found'])}; wanted {_short(check['wanted'])}")
    for number, part in report["parts"].items():
        took = f", {part['seconds']} s" if "seconds" in part else ""
        lines += ["", f"{number}. {part['title']}: {part['state']}{took} of {part['limit_s']} s"]
        passed = [check for check in part["checks"] if check["passed"]]
        lines += [f"  {name}: {_short(value, 600)}" for name, value in part["facts"].items()]
        # Hundreds of passed checks of one kind say less than their number.
        shown = passed if len(passed) <= 60 else []
        lines += [f"  passed: {c['name']}: {_short(c['found'])}" for c in shown]
        lines.append(f"  {len(passed)} of {len(part['checks'])} checks passed")
        unjudged_here = [check for check in part["checks"] if check["passed"] is None]
        if unjudged_here:
            lines.append(f"  {len(unjudged_here)} {unjudged_here[0].get('why', 'not judged')}")
        if part["refused"]:
            lines.append(f"  {len(part['refused'])} combinations are refused by the package")
        lines += [f"  skipped: {c['name']}: {c['why']}" for c in part["skipped"]]
    return "\n".join(lines) + "\n"


def _short(value: object, most: int = 300) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else f"{text[:most]}..."
