#!/usr/bin/env python3
"""docs/performance.md from bench/results/*.json: of every row the latest result on each kind of GPU.

report.py [--check]    --check: only tell whether the page is up to date
"""

import json
import sys
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
HEAD = """# Performance

Written by `bench/report.py` from `bench/results/*.json`; don't edit. Each row is the latest result on its GPU.
"""
COMPARED = """
hax and other libraries in one process on the same values, bf16, cold L2, medians (`bench/compare/compare.py`). "replay": a
CUDA graph of calls; "call": calls from Python one after the other, launches included. The ratio is peer to hax in the better
of the two ways of calling; a bar's is to the first peer, which works on the very same tensors. Bars and goals are for an H100.

| row | hax, ms: replay / call | peers, ms: replay / call | ratios | bar | goal, ms | met | commit |
|---|---|---|---|---|---|---|---|
"""
ALONE = """
hax alone (`bench/gpu_pass.sh`): CUDA graph replay over rotating tensors, more than four times the L2. Roofline: the longest
of the times that a call's bytes take at the measured copy bandwidth, its exponentials and its operations at the GPU's
nominal rates.

| row | ms | MB | GB/s | G exp | GFLOP | of roofline | commit |
|---|---|---|---|---|---|---|---|
"""


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def number(value):
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def load():
    """Latest records by (GPU, row): of comparisons and of hax alone."""
    compared, alone = {}, {}

    def keep(table, gpu, name, record):
        old = table.get((gpu, name))
        if not old or moment(old["date"]) <= moment(record["date"]):
            table[gpu, name] = record

    for path in sorted((ROOT / "bench/results").glob("*.json")):
        data = json.loads(path.read_text())
        if "rows" in data:
            for row in data["rows"]:
                if row["times"].get("hax"):
                    stamp = {"date": data["date"], "commit": data.get("commit", "")}
                    keep(compared, data["gpu"], row["name"], {**row, **stamp})
        elif "gpu" in data.get("context", {}):
            context = data["context"]
            for row in data["benchmarks"]:
                if "roofline_percent" in row:
                    name = row["name"].removeprefix("cuda/").split("/iterations")[0]
                    stamp = {"date": context["date"], "commit": context.get("commit", "")}
                    keep(alone, context["gpu"], name, {**row, **stamp})
    return compared, alone


def pair(times):
    return f"{number(times['replay_ms'])} / {number(times['call_ms'])}"


def bar(bars):
    parts = []
    if "ms" in bars:
        parts.append(f"<= {bars['ms']} ms")
    if "ratio" in bars:
        parts.append(f">= {bars['ratio']}x" + (" by replay" if bars.get("by") == "replay" else ""))
    if "per_token" in bars:
        parts.append(f"<= {bars['per_token']}x per token of {bars['of']}")
    if "gib" in bars:
        parts.append(f"workspace <= {bars['gib']} GiB")
    if "token_bytes" in bars:
        parts.append(f"workspace <= {bars['token_bytes']} B a token and head")
    return ", ".join(parts)


def compared_line(name, row):
    peers = "; ".join(f"{label} {pair(t)}" for label, t in row["times"].items() if label != "hax")
    ratios = "; ".join(f"{max(r.values()):.2f}x" for r in row["ratios"].values())
    bars = bar(row["bars"])
    met = ("yes" if row["bars_met"] else "no") if bars else ""
    if not row["agrees"]:
        met += " (results differ)"
    goal = row["bars"].get("goal", "")
    return f"| {name} | {pair(row['times']['hax'])} | {peers} | {ratios} | {bars} | {goal} | {met} | {row['commit']} |"


def alone_line(name, row):
    counts = [row.get("bytes", 0) * 1e-6, row.get("GB_per_s"), row.get("exps", 0) * 1e-9, row.get("flops", 0) * 1e-9]
    cells = [number(row["real_time"]), *(number(c) if c else "" for c in counts), f"{row['roofline_percent']:.0f}%"]
    return f"| {name} | " + " | ".join(cells) + f" | {row['commit']} |"


def page():
    compared, alone = load()
    text = HEAD
    for gpu in sorted({gpu for gpu, _ in [*compared, *alone]}):
        text += f"\n## {gpu}\n"
        for head, table, line in ((COMPARED, compared, compared_line), (ALONE, alone, alone_line)):
            lines = [line(name, row) for (g, name), row in table.items() if g == gpu]
            if lines:
                text += head + "\n".join(lines) + "\n"
    return text


def main():
    text = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != text:
            print("docs/performance.md is not what bench/results/ says; ./dev bench --report writes it", file=sys.stderr)
            return 1
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
