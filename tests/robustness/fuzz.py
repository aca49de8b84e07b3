"""Mutated recipes, data files, adapters and checkpoints: whatever the bytes, success or one clear message.

    python -m tests.robustness.fuzz [--recipes 2000 --data 500 --directories 300 --seed 0]

Counts by outcome. A traceback, another exit status than 0 and 2, more than 30 seconds or 2 GB, or a file that appears
or changes anywhere but in the case's own directory ends it at once, and the case is kept.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from reflora_cli.training.checkpoint import manifest_of
from tests.robustness.runs import SETTINGS, preload, status_of

SECONDS = 30
BYTES = 2 * 2**30
TOKENS = [
    b"null", b"-1", b"1e309", b".nan", b"[]", b"{}", b"*a", b"&a", b"(a|aa)+(?<=!)", b"((", b"/dev/zero", b"\x00",
    b"!!python/object/apply:os.system ['touch executed']", b"../../../../etc/passwd", b"\xff\xfe", b"\xf0\x9f\x8e\xb2",
    b"'", b'"', b"\n", b"\t", b"%", b"${HOME}", b"0x7fffffffffffffff", b"true", b"~", b"- " * 20, b"{" * 50, b"[" * 50,
    b"a" * 5000, b"1" * 400,
]  # fmt: skip


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few changes: bits, cut or doubled pieces, tokens that mean something to a parser."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 4])):
        place = draw.randrange(len(data) + 1)
        span = draw.randrange(1, 40)
        match draw.choice([0, 0, 0, 1, 2, 3, 3, 4, 5]):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
            case 1:
                del data[place : place + span]
            case 2:
                data[place:place] = data[place : place + span]
            case 3:
                data[place:place] = draw.choice(TOKENS)
            case 4:
                data[place : place + span] = draw.choice(TOKENS)
            case _:
                del data[place:]
    return bytes(data)


def recipe_case(base: Path, draw: random.Random) -> list[str]:
    """A recipe; what is good of it is checked to the last, but not trained."""
    content = (base / "good.yaml").read_bytes()
    (base / "case" / "recipe.yaml").write_bytes(mutated(content, draw))
    return ["train", str(base / "case" / "recipe.yaml"), "--dry-run", "--output", str(base / "case" / "run")]


def data_case(base: Path, draw: random.Random) -> list[str]:
    """A data file of any kind."""
    source = draw.choice(sorted((base / "data").iterdir()))
    file = base / "case" / source.name
    file.write_bytes(mutated(source.read_bytes(), draw))
    task = ["task.name=instruct", "task.max_length=64"] if "prompt" in source.name else ["task.name=glue/rte"]
    settings = ["eval.every=never", "eval.select=last", "eval.at_start=false", f"task.data={file}", *task]
    return ["train", str(base / "good.yaml"), *settings, "--dry-run", "--output", str(base / "case" / "run")]


def directory_case(base: Path, draw: random.Random) -> list[str]:
    """A run of which one file was changed, added to or removed: scored, merged, exported or continued."""
    run = shutil.copytree(base / "run", base / "case" / "run")
    command = draw.choice(["eval", "merge", "peft", "resume"])
    if command == "resume":
        (run / "results.json").unlink()
    kinds = (".json", ".jsonl", ".yaml", ".safetensors")
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.suffix in kinds)
    file = draw.choice([path for path in files if command == "resume" or "checkpoints" not in str(path)])
    match draw.randrange(10):
        case 0:
            file.unlink()
        case 1:
            file.write_bytes(b"")
        case 2:
            file.unlink()
            file.symlink_to("/etc/hostname")
        case 3:
            file.unlink()
            file.mkdir()
        case 4:
            file.write_bytes(b"[" * 200_000)
        case 5:
            file.unlink()
            os.mkfifo(file)
        case _:
            file.write_bytes(mutated(file.read_bytes(), draw))
            if file.name == "state.json" and draw.random() < 0.5:  # with a manifest that fits it
                (file.parent / "manifest.json").write_text(manifest_of(file.parent))
    match command:
        case "merge":
            return ["merge", str(run), "--output", str(base / "case" / "merged")]
        case "peft":
            return ["export", str(run), "--format", "peft", "--output", str(base / "case" / "peft")]
        case "resume":
            return ["train", str(base / "good.yaml"), "--output", str(run), "--resume"]
    return ["eval", str(run), "--limit", "4"]


def executed(arguments: list[str], log: Path) -> tuple[int, float]:
    """Status and seconds of a command in a forked process of limited memory and time."""
    begin = time.monotonic()
    pid = os.fork()
    if pid:
        return status_of(pid), time.monotonic() - begin
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    status = 1
    try:
        from reflora_cli.cli import app

        app(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)


def prepare(base: Path) -> None:
    """A good recipe, good data files and a finished run."""
    settings = dict(setting.split("=") for setting in SETTINGS)
    content: dict[str, dict[str, object]] = {
        "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
        "method": {"name": "dora"},
        "task": {"name": "builtin/entailment"},
        "train": {"learning_rate": 1e-3},
        "eval": {},
    }
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name != "interval" and not name.startswith("refactor"):
            content[section][name] = yaml.safe_load(value)
    (base / "good.yaml").write_text("# a comment\n" + yaml.safe_dump(content))
    data = base / "data"
    data.mkdir()
    rows = [{"sentence1": f"a cup {n}", "sentence2": 'it "is"\ta cup', "label": n % 2} for n in range(30)]
    prompts = [{"instruction": f"Say {n}", "input": "", "output": str(n)} for n in range(30)]
    columns = ("sentence1", "sentence2", "label")
    for name, separator in (("rows.csv", ","), ("rows.tsv", "\t")):
        lines = [separator.join(columns), *(separator.join((row["sentence1"], "b", str(row["label"]))) for row in rows)]
        (data / name).write_text("\n".join(map(str, lines)))
    (data / "rows.json").write_text(json.dumps(rows))
    (data / "prompts.json").write_text(json.dumps(prompts))
    for name, values in (("rows", rows), ("prompts", prompts)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in values))
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), data / "rows.parquet")
    status, _ = executed(["train", str(base / "good.yaml"), "--output", str(base / "run")], base / "log")
    if status:
        raise SystemExit((base / "log").read_text())


def outside(base: Path) -> set[str]:
    """All that there is beside the case and the log, with the times of its last change.

    The working directory is `base`, and so what is executed or named relatively would show too.
    """
    own = {base / "case", base / "log", base / "cache"}
    found = [path for path in (*base.parent.iterdir(), *base.iterdir()) if path not in own and path != base]
    found += [path for place in found if place.is_dir() for path in place.rglob("*")]
    return {f"{path} {path.lstat().st_mtime_ns}" for path in found}


def fuzz(
    name: str, count: int, case: Callable[[Path, random.Random], list[str]], base: Path, draw: random.Random
) -> None:
    counts: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for number in range(count):
        (base / "case").mkdir()
        arguments, before = case(base, draw), outside(base)
        status, seconds = executed(arguments, base / "log")
        slowest = max(slowest, seconds)
        said = (base / "log").read_text(errors="replace")
        strange = outside(base) ^ before
        if status not in (0, 2) or "Traceback" in said or strange:
            kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
            shutil.copytree(base / "case", kept / "case", symlinks=True)
            print(
                f"{name} {number}: status {status}, {seconds:.0f} s, {strange or ''}, kept in {kept}", file=sys.stderr
            )
            print(" ".join(arguments), said[-2500:], sep="\n", file=sys.stderr)
            raise SystemExit(1)
        counts[f"status {status}"] += 1
        shutil.rmtree(base / "case")
    print(f"{name}: {dict(counts)}, slowest {slowest:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.fuzz", description=__doc__)
    for name, default in (("recipes", 2000), ("data", 500), ("directories", 300), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    preload()
    with tempfile.TemporaryDirectory() as outer:
        base = Path(outer) / "base"
        base.mkdir()
        os.environ["REFLORA_CACHE"] = str(base / "cache")
        os.chdir(base)
        prepare(base)
        draw = random.Random(chosen.seed)
        for name, count, case in (
            ("recipes", chosen.recipes, recipe_case),
            ("data", chosen.data, data_case),
            ("directories", chosen.directories, directory_case),
        ):
            fuzz(name, count, case, base, draw)


if __name__ == "__main__":
    main()
