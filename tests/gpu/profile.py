"""Where a training step's time goes on the device: launches, the device's own time against the clock, and the kernels.

    python -m tests.gpu.profile [--layers 20 --width 2048 --length 512 --dtype bfloat16] [--ways "reflora dora" ...]

A step whose device time is far below its time by the clock waits for the host to launch kernels: fewer launches make it
faster, faster kernels do not.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch.profiler import ProfilerActivity, profile

from reflora_cli.console.output import show_table
from tests.benchmarks.layers import stepper, timed_step
from tests.benchmarks.variants import TARGETS, make_base, variants

WAYS = ("frozen floor", "reflora lora", "reflora reflora", "reflora dora", "PEFT lora", "PEFT dora")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.profile", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    for name, default in (("layers", 20), ("width", 2048), ("batch", 8), ("length", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.set_defaults(base=None)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    device = torch.device(chosen.device)
    base = make_base(chosen)
    ids = torch.randint(0, 1000, (chosen.batch, chosen.length)).to(device)
    embedded = base.get_input_embeddings()(ids)
    rows, figures = [], {}
    for name, way in variants(base, base, TARGETS).items():
        if name not in chosen.ways:
            continue
        forward = stepper(way[0], embedded)
        seconds = min(timed_step(way, forward) for _ in range(5))
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        with profile(activities=activities) as seen:
            timed_step(way, forward)
        averages = seen.key_averages()
        kernels = [event for event in averages if event.device_type.name != "CPU"] or list(averages)
        own = {event.key: (event.self_device_time_total or event.self_cpu_time_total, event.count) for event in kernels}
        total, launches = sum(spent for spent, _ in own.values()), sum(count for _, count in own.values())
        rows.append((name, f"{1e3 * seconds:.1f}", f"{total / 1e3:.1f}", str(launches)))
        figures[name] = {"seconds": seconds, "device_microseconds": total, "kernels": launches}
        largest = sorted(own.items(), key=lambda item: -item[1][0])[:14]
        listed = [(key[:90], f"{spent / 1e3:.2f}", str(count)) for key, (spent, count) in largest]
        show_table(f"{name}: its kernels", ("kernel", "ms", "launches"), listed)
    show_table("a step", ("way", "ms by the clock", "ms of the device", "kernels"), rows)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
