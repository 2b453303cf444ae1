#!/usr/bin/env python3
"""hax and its peers, timed in one process on the same values, their results compared.

compare.py [--filter REGEX] [--json FILE] [--warm] [--list]

--warm runs every contestant once and times nothing: what is compiled on first use is compiled then.
HAX_LIBRARY names the library (default build/release/libhax.so). A peer that can't be imported is listed as absent.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import hax
import peers
import rows_attention
import rows_scan
import timing
import torch
from row import error


def all_rows():
    rows = rows_scan.rows() + rows_attention.rows() + rows_scan.long_rows()
    assert len({row.name for row in rows}) == len(rows)
    return rows


def compare_results(row, contestants):
    """Worst error of each peer's results against hax's, by label."""
    ours = contestants["hax"]
    if ours.result is None:
        return {}
    want = {n: t.clone() for n, t in ours.result().items()}
    errors = {}
    for label, contestant in contestants.items():
        if label != "hax" and contestant.result:
            got = contestant.result()
            errors[label] = {n: error(want[n], got[n]) for n in want}
    return errors


def run_row(row, device, warm):
    contestants = row.make(device)
    for contestant in contestants.values():
        if contestant.run:
            contestant.run()
    if device != "cpu":
        torch.cuda.synchronize()
    record = {"name": row.name, "bars": row.bars, "errors": compare_results(row, contestants), "times": {}}
    call = contestants["hax"].run
    if isinstance(call, hax.Call):
        record["workspace_bytes"] = call.workspace_bytes
    if warm or device == "cpu":
        return record
    sets = [contestants]
    sets += [row.make(device) for _ in range(timing.sets_needed(row.bytes) - 1)]
    for label, contestant in contestants.items():
        if contestant.run:
            calls = [s[label].run for s in sets]
            called = timing.call_ms(calls)
            record["times"][label] = {"replay_ms": timing.replay_ms(calls, called), "call_ms": called}
    return record


def best(times):
    return times["replay_ms"] or times["call_ms"]


def judge(row, record, others):
    """Ratio of every peer's time to hax's, by graph replay and as called, and every bar with whether it is met. The bar's
    ratio is to the first peer, which works on the very same tensors, the better of the two ways of calling where the bar
    names none."""
    times = record["times"]
    ours = times.get("hax")
    verdicts = []
    record["ratios"] = {}
    if ours:
        for label, t in times.items():
            if label != "hax":
                ratios = {"replay": best(t) / best(ours), "call": t["call_ms"] / ours["call_ms"]}
                record["ratios"][label] = ratios
        bars = row.bars
        if "ms" in bars:
            verdicts.append((f"<= {bars['ms']} ms", best(ours) <= bars["ms"]))
        if "ratio" in bars and record["ratios"]:
            label, ratios = next(iter(record["ratios"].items()))
            ratio = ratios[bars["by"]] if "by" in bars else max(ratios.values())
            verdicts.append((f">= {bars['ratio']}x {label}", ratio >= bars["ratio"]))
        if "per_token" in bars and bars["of"] in others:
            base = others[bars["of"]]
            grows = (best(ours) / row.tokens) / (best(base["times"]["hax"]) / base["tokens"])
            record["per_token_growth"] = grows
            verdicts.append((f"per token <= {bars['per_token']}x: {grows:.2f}", grows <= bars["per_token"]))
        if "gib" in bars and "workspace_bytes" in record:
            verdicts.append((f"workspace <= {bars['gib']} GiB", record["workspace_bytes"] <= bars["gib"] * 2**30))
        if "token_bytes" in bars and "workspace_bytes" in record:
            each = record["workspace_bytes"] / row.tokens
            verdicts.append((f"workspace {each:.1f} of {bars['token_bytes']} B a token and head", each <= bars["token_bytes"]))
    wrong = [f"{label} {name} {value:.1e}" for label, by in record["errors"].items() for name, value in by.items()
             if not value <= row.tolerance]  # fmt: skip
    record["agrees"] = not wrong
    record["bars_met"] = all(met for _, met in verdicts)
    return verdicts, wrong


def print_row(record, verdicts, wrong):
    ms = lambda x: "-" if x is None else f"{x:.4f}" if x < 1 else f"{x:.3f}"
    print(record["name"])
    for label, t in record["times"].items():
        ratios = ", ".join(f"{kind} {ratio:.2f}x" for kind, ratio in record["ratios"].get(label, {}).items())
        print(f"    {label:26} replay {ms(t['replay_ms']):>9} ms   call {ms(t['call_ms']):>9} ms   {ratios}")
    for text, met in verdicts:
        print(f"    {'met   ' if met else 'MISSED'} {text}")
    for text in wrong:
        print(f"    DIFFERS {text}")
    sys.stdout.flush()


def driver():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError):
        return "none"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="")
    parser.add_argument("--json")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    rows = [row for row in all_rows() if re.search(options.filter, row.name)]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    report = {"gpu": gpu, "torch": torch.__version__, "hax": hax.version(), "absent": peers.absent,
              "commit": os.environ.get("HAX_COMMIT", ""), "driver": driver(),
              "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "rows": []}  # fmt: skip
    print(f"GPU {gpu}, torch {torch.__version__}, hax {hax.version()}")
    for label, why in peers.absent.items():
        print(f"absent: {label} ({why})", flush=True)
    done = {}
    for row in rows:
        try:
            record = run_row(row, device, options.warm)
        except (hax.Error, RuntimeError) as why:
            record = {"name": row.name, "bars": row.bars, "errors": {}, "times": {}, "not_run": str(why).splitlines()[0]}
            print(f"{row.name}\n    NOT RUN: {record['not_run']}", flush=True)
        else:
            record["tokens"] = row.tokens
            print_row(record, *judge(row, record, done))
        if record["times"]:
            done[row.name] = record
        report["rows"].append(record)
        if options.json:
            Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
        gc.collect()
        if device == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as why:
                print(f"stopped: {str(why).splitlines()[0]}")
                return 1
    return 0 if all(r.get("agrees") for r in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
