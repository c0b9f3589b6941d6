"""Prints the table of a pytest-benchmark JSON: ``python bench/table.py bench/results/last.json [--keep FILE]``.

Times are medians. "limit" is the least time that the case could take here: the larger of its multiplications at the
rate of a 2048³ matrix product and its output's bytes at the rate of filling a tensor of about that size (warm for out=;
fresh, on huge pages or not, whichever is faster, otherwise), all measured in the same run.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from lkca.bench import least_seconds, rate_text

BASELINES = ("eager", "compile", "onnxruntime")


def table(report: dict[str, Any]) -> str:
    groups: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for result in report["benchmarks"]:
        facts = result["extra_info"] | {"median": result["stats"]["median"]}
        groups[result["group"]][facts["contender"]] = facts
    limits = groups.pop("limits", {})
    machine = report["machine_info"]["cpu"].get("brand_raw", "unknown processor")
    some = next((facts for group in groups.values() for facts in group.values()), {})
    lines = [f"{machine}, {some.get('threads')} threads, torch {some.get('torch')}"]
    lines += operators(groups, limits)
    lines += scenes({name: group for name, group in groups.items() if name.startswith("scene, ")})
    tiny = groups.get("1000 tiny calls")
    if tiny:
        ours_us, one_us = (tiny[k]["median"] * 1e3 for k in ("lkca", "one eager op"))
        lines += ["", f"Tiny call: {ours_us:.1f} µs, {ours_us - one_us:.1f} µs more than one eager op."]
    if limits:
        lines += ["", "Measured limits: " + "; ".join(rate_text(k, v) for k, v in sorted(limits.items()))]
    return "\n".join(lines)


def operators(groups: dict[str, dict[str, dict[str, Any]]], limits: dict[str, dict[str, Any]]) -> list[str]:
    """Our operators beside what computes the same; medians in ms, and baseline / ours."""
    lines = []
    for name, group in groups.items():
        if "lkca" not in group or "one eager op" in group:
            continue
        ours = group["lkca"]
        cells = [name, f"{ours['median'] * 1e3:.2f}"]
        for baseline in BASELINES:
            other = group.get(baseline)
            cells.append(f"{other['median'] * 1e3:.1f} ({other['median'] / ours['median']:.1f}×)" if other else "")
        limit = least_seconds(ours, limits)
        cells += [f"{limit * 1e3:.2f}", f"{100 * limit / ours['median']:.0f} %"] if limit else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    head = [
        "",
        "Medians in ms; ratio = baseline / ours.",
        "",
        "| case (C, s, R, LR) | ours | eager | compile | ONNX Runtime | limit | share of limit |",
        "|---|---|---|---|---|---|---|",
    ]
    return head + lines if lines else []


def scenes(groups: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Shares of the network's own rate, of the tile where it is fastest, that whole scenes reach."""
    outputs = (
        ".img int16", ".img float32", ".tif int16", ".img int16 in tiles of 192",
        *(f"{kind}, edges missing" for kind in (".img int16", ".tif int16", ".tif uint16")),
    )  # fmt: skip
    lines = ["", f"| scene of Msamples | network, s | {' | '.join(outputs)} |", "|---" * (2 + len(outputs)) + "|"]
    for name, group in groups.items():
        best = min(facts["median"] for contender, facts in group.items() if contender.startswith("network"))
        cells = [f"{name.removeprefix('scene, ')}, {next(iter(group.values()))['samples'] / 1e6:.0f}", f"{best:.2f}"]
        for output in outputs:
            facts = group.get(f"scene {output}")
            cells.append(f"{facts['median']:.2f} s, {100 * best / facts['median']:.0f} %" if facts else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines if groups else []


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """The part of a report that the table is made of: what bench/results keeps."""
    return {
        "machine_info": {"cpu": {"brand_raw": report["machine_info"]["cpu"].get("brand_raw", "unknown processor")}},
        "datetime": report["datetime"],
        "benchmarks": [
            {
                "group": result["group"],
                "stats": {name: result["stats"][name] for name in ("median", "iqr", "rounds")},
                "extra_info": result["extra_info"],
            }
            for result in report["benchmarks"]
        ],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--keep", type=Path, help="also write what the table needs here, for bench/results")
    args = parser.parse_args()
    found = json.loads(args.report.read_text())
    print(table(found))
    if args.keep is not None:
        args.keep.write_text(json.dumps(kept(found), indent=1) + "\n")
