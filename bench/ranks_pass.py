#!/usr/bin/env python3
"""The trainer on several GPUs of one host: loss curves, throughput, the death of a rank, a sweep.

ranks_pass.py PROGRAM OUT.json    PROGRAM: joint_recall; OUT.json gets the figures
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

MODEL = ["--base_arch", "mamba2", "--sparse_arch", "sign_bin_lsh+key_selection", "--warmup_step", "100"]
CURVE_STEPS = 500
ITEMS_PER_GPU = 512
LIMIT = 120  # seconds that any one run may take
DEATH_LIMIT = 60  # seconds within which the others must have ended


def nvidia_smi(what):
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


class Trainer:
    """Starts the program in a folder of its own."""

    def __init__(self, program, folder):
        self.program, self.folder, self.port = program, folder, 29610

    def start(self, name, args, environment=None):
        log = open(self.folder / f"{name}.log", "w")
        return subprocess.Popen(
            [self.program, *args], cwd=self.folder, stdout=log, stderr=log, env=os.environ | (environment or {})
        )

    def train(self, name, flags, gpu=0):
        args = ["train", "--no-quick", "--data_dir", "data", "--save_dir", name, *MODEL, *flags]
        return self.start(name, [*args, "--device", f"cuda:{gpu}"])

    def ranks(self, name, count, flags):
        self.port += 2
        args = ["train", "--no-quick", "--data_dir", "data", "--save_dir", name, "--device", "cuda", *MODEL, *flags]
        place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        return [
            self.start(f"{name}.rank{rank}", args, place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]

    def run_folder(self, name):
        return next(path for path in (self.folder / name).iterdir() if path.is_dir())

    def records(self, name, file):
        return [json.loads(line) for line in (self.run_folder(name) / file).read_text().splitlines()]

    def last_words(self, name):
        return (self.folder / f"{name}.log").read_text().strip().split("\n")[-1]


def finish(*processes):
    for process in processes:
        if process.wait(LIMIT):
            sys.exit(f"ranks_pass: {process.args} ended with {process.returncode}; see its log")


def curve(trainer, name):
    return [row["loss"] for row in trainer.records(name, "metrics.jsonl") if row["split"] == "train"]


def loss_curves(trainer, count):
    """fp32, the same batch of 64: one GPU, one rank, all ranks."""
    flags = ["--precision", "fp32", "--bsz", "64", "--step", str(CURVE_STEPS)]
    flags += ["--valid_step", str(CURVE_STEPS), "--log_step", "20"]
    finish(trainer.train("plain", flags))
    finish(*trainer.ranks("one_rank", 1, flags))
    finish(*trainer.ranks("all_ranks", count, flags))
    plain, one, several = (curve(trainer, name) for name in ("plain", "one_rank", "all_ranks"))
    worst = max(abs(a - b) / abs(a) for a, b in zip(plain, several, strict=True))
    return {"steps": CURVE_STEPS, "one_rank_equals_plain_run": one == plain, "worst_relative_difference": worst}


def throughput(trainer, count):
    """bf16, 512 items a GPU: items a second of one GPU alone and of all together."""
    flags = ["--precision", "bf16", "--step", "200", "--valid_step", "200", "--log_step", "20"]
    finish(trainer.train("alone", [*flags, "--bsz", str(ITEMS_PER_GPU)]))
    finish(*trainer.ranks("together", count, [*flags, "--bsz", str(ITEMS_PER_GPU * count)]))

    def rate(name):
        return max(row["items_per_second"] for row in trainer.records(name, "timing.jsonl"))

    alone, together = rate("alone"), rate("together")
    return {"items_per_gpu": ITEMS_PER_GPU, "alone": alone, "together": together, "per_gpu": together / count / alone}


def lost_rank(trainer, count, name):
    """The last rank is killed amid training: how soon the first ends, what it says, what is left."""
    flags = ["--precision", "bf16", "--bsz", "64", "--step", "1000000", "--valid_step", "300"]
    processes = trainer.ranks(name, count, flags)
    deadline = time.monotonic() + LIMIT
    while not list((trainer.folder / name).glob("*/best.safetensors")):
        if time.monotonic() > deadline or processes[0].poll() is not None:
            sys.exit(f"ranks_pass: {name} wrote no checkpoint: {trainer.last_words(name + '.rank0')}")
        time.sleep(0.2)
    processes[-1].kill()
    start = time.monotonic()
    code = processes[0].wait(DEATH_LIMIT)
    seconds = time.monotonic() - start
    for process in processes[1:]:
        process.wait(LIMIT)
    resume = ["train", "--data_dir", "data", "--resume", str(trainer.run_folder(name))]
    before = len(trainer.records(name, "metrics.jsonl"))
    again = trainer.start(f"{name}.again", [*resume, "--device", "cuda:0"])
    time.sleep(6)
    again.send_signal(signal.SIGTERM)
    return {
        "exit_code": code,
        "seconds": seconds,
        "message": trainer.last_words(f"{name}.rank0"),
        "resumed": again.wait(LIMIT) == 128 + signal.SIGTERM and len(trainer.records(name, "metrics.jsonl")) > before,
    }


def sweep(trainer, count):
    model = {"base_arch": "mamba2", "sparse_arch": "sign_bin_lsh+key_selection"}
    cells = [
        {"name": f"seed{i}", "row": "HAX", "column": f"seed {i}", "flags": model | {"seed": str(i)}}
        for i in range(1, count + 1)
    ]
    (trainer.folder / "cells.json").write_text(json.dumps({"title": "Seeds", "cells": cells}))
    settings = ["--set", "step=600", "--set", "valid_step=300", "--set", "precision=bf16"]
    args = ["sweep", "--cells", "cells.json", "--data_dir", "data", "--sweep_dir", "sweep", *settings]
    finish(trainer.start("sweep", args))
    log = (trainer.folder / "sweep.log").read_text()
    done = json.loads((trainer.folder / "sweep/results.json").read_text())["cells"]
    return {
        "cells": [{key: cell[key] for key in ("name", "status", "ms_per_step", "wall_seconds")} for cell in done],
        "gpus_used": sum(f"starts on cuda:{gpu}" in log for gpu in range(count)),
    }


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    gpus = nvidia_smi("name")
    if len(gpus) < 2:
        sys.exit("ranks_pass: expected two GPUs or more, got one")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(str(Path(sys.argv[1]).resolve()), Path(folder))
        items = ["--n_train_per_context_key", "512", "--n_test_per_context_key", "1"]
        finish(trainer.start("data", ["create-dataset", "--data_dir", "data", *items]))
        result = {
            "gpus": gpus,
            "driver": nvidia_smi("driver_version")[0],
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "commit": os.environ.get("HAX_COMMIT", ""),
            "loss_curves": loss_curves(trainer, len(gpus)),
            "throughput": throughput(trainer, len(gpus)),
            "killed": lost_rank(trainer, len(gpus), "killed"),
            "sweep": sweep(trainer, len(gpus)),
        }
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
