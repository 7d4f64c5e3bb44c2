"""How long the report of a large sweep takes, how big it is, and how soon a browser shows it.

`python benchmarks/report.py [--sizes 1000x50,10000x10] [--keep FOLDER]`: makes a sweep of so many trials and
epochs each, with six searched settings and learning signals as real ones have, reads and reports it in a fresh process,
and opens the page in headless Chromium where there is one. Prints a table and then the same numbers as JSON.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from ruamel.yaml import YAML

from tune_newllm import records

BATCHES = [8, 16, 32, 64, 128]
SPEC: dict[str, Any] = {
    "description": "a made-up sweep",
    "corpus": {"name": "python-docs"},
    "model": {"ctx_dim": 64},
    "training": {"lr": 1e-3, "batch_size": 32, "epochs": 50},
    "method": "random",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {
        "training.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 3e-2},
        "training.batch_size": {"values": BATCHES},
        "training.clip.schedule": {"values": ["none", "constant", "linear"]},
        "training.clip.norm": {
            **{"distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
            "when": {"training.clip.schedule": ["constant", "linear"]},
        },
        "model.ctx_dim": {"values": [32, 64, 128, 256]},
        "model.num_layers": {"distribution": "int_uniform", "min": 1, "max": 12},
    },
}


def trial(number: int, epochs: int, now: float, rng: np.random.Generator) -> Iterator[records.Record]:
    """The records of one trial: the best lr grows with the root of the batch; one in fifty diverges."""
    lr, batch, clip = float(10 ** rng.uniform(-4, -1.52)), int(rng.choice(BATCHES)), str(rng.choice(["none", "linear"]))
    given = {"training.lr": lr, "training.batch_size": batch, "training.clip.schedule": clip}
    given |= {"training.clip.norm": float(10 ** rng.uniform(-1, 1))} if clip == "linear" else {}
    given |= {"model.ctx_dim": int(rng.choice([32, 64, 128, 256])), "model.num_layers": int(rng.integers(1, 13))}
    name, diverged = f"t{number:05d}", number % 50 == 49
    identity = {"trial_id": name, "config_id": f"c{number}", "number": number, "seed": number, "origin": "random"}
    size = 100_000 + 1000 * given["model.ctx_dim"] * given["model.num_layers"]
    yield records.TrialCreated(time=now, **identity, parameters=given, lr=lr, model_size=size)
    yield records.TrialStarted(time=now, trial_id=name)
    off = math.log(lr / (2e-3 * math.sqrt(batch / 32)))
    floor = 4.2 + 0.09 * off**2 + 0.001 * given["model.num_layers"] + rng.normal(0, 0.01)
    last = max(1, epochs // 10) if diverged else epochs
    for epoch in range(1, last + 1):
        loss = floor + 1.6 * math.exp(-0.15 * epoch) + rng.normal(0, 0.012)
        left = 40 * (3e-3 / lr) ** 0.9
        yield records.EpochRecord(
            time=now + epoch, elapsed=now + epoch, trial_id=name, epoch=epoch, step=100 * epoch, tokens=50_000 * epoch,
            train_loss=loss + 0.1, val_loss=loss, val_loss_legacy=loss, val_ppl=math.exp(loss), val_acc=0.21,
            val_ppl_known=math.exp(loss) / 2, grad_norm=1.0 + rng.random(), clipped_share=rng.random(),
            tokens_per_s=25_000 * (1 + rng.random()), seconds=2 + rng.random(), peak_memory_bytes=10**8, lr=lr,
            clip=1.0, noise_scale=100 * rng.random(), update_ratio=0.6 * lr, dead_relu=0.02 + 0.1 * rng.random(),
            ctx_norm=3 + rng.random(), ctx_rank=20 + rng.random(),
            plateau_step=int(left) if left < 100 * epoch else None, micro_batch=batch,
        )  # fmt: skip
    state, reason = ("diverged", "the loss became nan") if diverged else ("completed", "epochs")
    yield records.TrialEnded(time=now + last, trial_id=name, state=state, epoch=last, reason=reason)


def write(folder: Path, trials: int, epochs: int) -> None:
    """A finished sweep folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    spec = SPEC | {"training": SPEC["training"] | {"epochs": epochs}, "run_cap": trials}
    YAML().dump(spec, folder / "sweep.yaml")
    (folder / "provenance.json").write_text("{}", encoding="utf-8")
    start = 1_700_000_000.0
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        file.write(records.to_line(records.SweepStarted(time=start, command=["search"])))
        for number in range(trials):
            file.writelines(map(records.to_line, trial(number, epochs, start + number * epochs, rng)))
        file.write(records.to_line(records.SweepEnded(time=start + trials * epochs, reason="finished")))


def report(folder: Path) -> dict[str, float]:
    """Seconds and megabytes of one report, made in this process."""
    began = time.perf_counter()
    import analysis

    _ = analysis.write_report
    imported = time.perf_counter()
    sweep = analysis.load(folder)
    loaded = time.perf_counter()
    page = analysis.write_report(sweep)
    written = time.perf_counter()
    return {
        "import_s": imported - began,
        "load_s": loaded - imported,
        "report_s": written - loaded,
        "total_s": written - began,
        "cpu_s": time.process_time(),
        "html_mb": page.stat().st_size / 1e6,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def opened(page: Path) -> dict[str, float]:
    """Seconds until the answers can be read and until all figures are drawn, and from a brush to the filtered table."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if chromium is None:
        return {}
    with sync_playwright() as playwright:
        # Without a graphics card, as on any machine: the canvas of lines is painted by the processor.
        options = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(300_000)
        began = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_function(
            "[...document.querySelectorAll('.figure')].every(place => place.querySelector('.main-svg'))"
        )
        tab.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        drawn = time.perf_counter()
        painted = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000")
        said = tab.locator("#listed").text_content()
        tab.get_by_text("best tenth").click()
        tab.wait_for_function("before => document.querySelector('#listed').textContent !== before", arg=said)
        brushed = time.perf_counter()
        browser.close()
    return {"painted_s": painted, "drawn_s": drawn - began, "brush_s": brushed - drawn}


def measure(trials: int, epochs: int, folder: Path) -> dict[str, float]:
    if not (folder / "records.jsonl").exists():
        write(folder, trials, epochs)
    command = [sys.executable, __file__, "--one", str(folder)]
    # One thread, as the command line has it.
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread).stdout)
    return {"trials": trials, "epochs": epochs, **found, **opened(folder / "report.html")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100x50,1000x50,10000x10,10000x50", help="TRIALSxEPOCHS, with commas")
    parser.add_argument("--keep", type=Path, help="where the sweeps stay, and are found again")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(report(given.one)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in given.sizes.split(","):
            trials, epochs = map(int, size.split("x"))
            rows.append(measure(trials, epochs, (given.keep or Path(scratch)) / size))
            if len(rows) == 1:
                print(" ".join(f"{name:>11}" for name in rows[0]))
            print(" ".join(f"{value:>11.4g}" for value in rows[-1].values()), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
