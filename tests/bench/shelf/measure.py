#!/usr/bin/env python3
"""Trains on an emulated shelf (shelf.sh, which must be up): one device alone and 2, 4, 6 ... workers, back to back in rounds.
README.md says what the columns mean. Usage: measure.py DARKNET CFG_FOLDER [OPTION...] (--help)"""
import argparse, json, os, random, re, statistics, struct, subprocess, sys, tempfile, time, zlib

HERE = os.path.dirname(os.path.abspath(__file__))
SHELF = os.path.join(HERE, "shelf.sh")
PORT, CLASSES = 5555, 3
# cfg, layers kept (0: all, with their own heads), size, batch, passes
NETWORKS = {
    "yolov2-tiny": ("yolov2-tiny.cfg", 0, 416, 8, 1),
    "yolov2-tiny-64": ("yolov2-tiny.cfg", 0, 416, 64, 8),
    "yolov2-16": ("yolov2.cfg", 16, 608, 1, 1),
    "yolov2-16-8": ("yolov2.cfg", 16, 608, 8, 1),
    "yolov2-64": ("yolov2.cfg", 0, 416, 64, 8),
}
HEAD = [["convolutional", {"filters": 0, "size": 1, "stride": 1, "activation": "linear"}],
        ["region", {"num": 5, "coords": 4, "softmax": 1, "jitter": ".2", "anchors": "1,1,2,2,3,3,4,4,5,5"}]]


def shelf(*words):
    done = subprocess.run([SHELF, *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"measure.py: shelf.sh {words[0]} failed")
    return done.stdout


def counters():
    return {node["node"]: node for node in json.loads(shelf("stats", "--json"))}


def png(path, width, height, rows):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows), 1)) + chunk(b"IEND", b""))


def write_pictures(folder, count=32, width=500, height=375):
    """One rectangle each, of the colour of its class, on grey noise."""
    rng, paths = random.Random(1), []
    for i in range(count):
        left, top, kind = rng.randrange(width // 2), rng.randrange(height // 2), i % CLASSES
        colour = bytes(220 if channel == kind else 30 for channel in range(3))
        noise = [bytes(v for g in (rng.randrange(90, 160) for _ in range(width)) for v in (g, g, g)) for _ in range(8)]
        rows = [noise[y % 8] for y in range(height)]
        for y in range(top, top + height // 3):
            rows[y] = rows[y][:3 * left] + colour * (width // 3) + rows[y][3 * (left + width // 3):]
        paths.append(f"{folder}/{i}.png")
        png(paths[-1], width, height, rows)
        with open(f"{folder}/{i}.txt", "w") as label:
            label.write(f"{kind} {(left + width / 6) / width} {(top + height / 6) / height} {1 / 3} {1 / 3}\n")
    lines = {"train.txt": paths, "names.txt": "abc",
             "obj.data": [f"classes = {CLASSES}", f"train = {folder}/train.txt", f"valid = {folder}/train.txt", f"names = {folder}/names.txt", f"backup = {folder}"]}
    for name, text in lines.items():
        with open(f"{folder}/{name}", "w") as file:
            file.write("\n".join(text) + "\n")


def read_cfg(path):
    sections = []
    for line in open(path):
        line = line.split("#")[0].strip()
        if line.startswith("["):
            sections.append([line.strip("[]"), {}])
        elif line:
            key, value = line.split("=", 1)
            sections[-1][1][key.strip()] = value.strip()
    return [s for s in sections if s[0] != "distributed"]


def cfg_text(options, network, workers, cluster):
    name, layers, size, batch, passes = network
    sections = read_cfg(os.path.join(options.cfg_folder, name))
    if layers:
        sections = sections[:layers + 1] + [[kind, dict(keys)] for kind, keys in HEAD]
    for before, (kind, keys) in zip(sections, sections[1:]):
        if kind in ("region", "yolo"):
            boxes = len(keys["mask"].split(",")) if "mask" in keys else int(keys.get("num", 1))
            before[1]["filters"] = boxes * (CLASSES + 5)
            keys.update(classes=CLASSES, random=0)
    net = sections[0][1]
    net.update(width=options.size or size, height=options.size or size, batch=batch, subdivisions=passes, burn_in=0,
               max_batches=options.warmup + options.iterations, learning_rate=0.0001, policy="constant")
    net.pop("steps", None), net.pop("scales", None)
    if workers:
        keys = dict(workers=cluster, **({"layers": layers} if layers else {}))
        keys.update(pair.split("=", 1) for pair in options.set)
        sections.insert(1, ["distributed", keys])
    return "\n".join(f"[{kind}]\n" + "".join(f"{k}={v}\n" for k, v in keys.items()) for kind, keys in sections)


def train(options, network, workers, coordinator, folder):
    """One training; None when it fails."""
    shelf("quit", "all"), shelf("reset")
    addresses = {node: f"tcp://{shelf('address', node).strip()}:{PORT}" for node in range(1, workers + 1)}
    with open(f"{folder}/cluster.json", "w") as file:
        json.dump({"workers": [{"name": f"node{n}", "address": a} for n, a in addresses.items()]}, file)
    with open(f"{folder}/net.cfg", "w") as file:
        file.write(cfg_text(options, network, workers, f"{folder}/cluster.json"))
    for node, address in addresses.items():
        shelf("spawn", node, f"{folder}/worker{node}.log", options.darknet, "worker", "-listen", address, "-insecure")
    deadline = time.monotonic() + 60
    while any(os.path.getsize(f"{folder}/worker{n}.log") == 0 for n in addresses):
        if time.monotonic() > deadline:
            sys.exit("measure.py: a worker said nothing for 60 s")
        time.sleep(0.2)
    times, log, start = [], [], time.monotonic()
    command = [SHELF, "exec", str(coordinator), options.darknet, "detector", "train", f"{folder}/obj.data", f"{folder}/net.cfg", "-dont_show", "-insecure"]
    run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env=dict(os.environ, HOME=folder, XDG_CACHE_HOME=f"{folder}/cache"))
    for line in run.stdout:
        log.append(line)
        found = re.match(r"\s*\d+: .* rate, ([0-9.]+) seconds", line)
        if not found:
            continue
        times.append(float(found.group(1)))
        if len(times) == 1:
            started = time.monotonic() - start - times[0]
        if len(times) == options.warmup:
            before = counters()
        if len(times) == options.warmup + options.iterations:
            after = counters()
    code = run.wait()
    peak = counters()
    shelf("quit", "all")
    measured = times[options.warmup:]
    if code or len(measured) != options.iterations:
        print(f"    {workers or 'one device alone'}: failed ({code}): " + "".join(log[-3:]).strip(), flush=True)
        return None
    used = [n for n in after if n in addresses or n == coordinator]
    def per_iteration(key, nodes):
        return [(after[n][key] - before[n][key]) / options.iterations for n in nodes]
    return {
        "seconds": measured, "start_up_s": started, "cpu_s": sum(per_iteration("cpu_s", used)),
        "sent_bytes": dict(zip(used, per_iteration("sent_bytes", used))), "received_bytes": dict(zip(used, per_iteration("received_bytes", used))),
        "peak_bytes": {n: peak[n]["peak_bytes"] for n in used}, "oom_kills": sum(peak[n]["oom_kills"] for n in used),
        "said": [l.strip() for l in log if l.startswith(("distributed:", "note"))],
    }


def summary(runs, alone, coordinator):
    """Medians over rounds; ratios are taken round by round, since only neighbours in time met the same machine."""
    pairs = [(run, one) for run, one in zip(runs, alone) if run and one]
    good = [run for run in runs if run]
    if not good:
        return None
    seconds = lambda run: statistics.median(run["seconds"])
    middle = lambda values: statistics.median(values) if values else float("nan")
    nodes = good[0]["peak_bytes"]
    most = lambda key, run: max(run[key].values())
    return {
        "seconds": middle([seconds(r) for r in good]), "least": min(min(r["seconds"]) for r in good), "greatest": max(max(r["seconds"]) for r in good),
        "speed_up": middle([seconds(one) / seconds(r) for r, one in pairs]), "cpu_s": middle([r["cpu_s"] for r in good]),
        "cpu_ratio": middle([r["cpu_s"] / one["cpu_s"] for r, one in pairs if one["cpu_s"] > 0]), "start_up_s": middle([r["start_up_s"] for r in good]),
        "sent_bytes": middle([most("sent_bytes", r) for r in good]), "received_bytes": middle([most("received_bytes", r) for r in good]),
        "peak_bytes": {n: middle([r["peak_bytes"][n] for r in good]) for n in nodes}, "coordinator": coordinator,
    }


def print_row(workers, s):
    others = [v for n, v in s["peak_bytes"].items() if n != s["coordinator"]]
    print(f"{workers or 'alone':>7} {s['seconds']:>9.3f} {s['least']:>8.3f} {s['greatest']:>8.3f} {s['speed_up']:>8.2f} {s['cpu_s']:>8.2f} {s['cpu_ratio']:>6.2f}"
          f" {s['sent_bytes'] / 1e6:>8.1f} {s['received_bytes'] / 1e6:>8.1f} {max(others, default=0) / 1e6:>8.1f} {s['peak_bytes'][s['coordinator']] / 1e6:>8.1f} {s['start_up_s']:>8.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Training on an emulated shelf: one device alone and several workers, side by side.")
    parser.add_argument("darknet"), parser.add_argument("cfg_folder")
    parser.add_argument("--networks", nargs="+", default=["yolov2-tiny", "yolov2-tiny-64", "yolov2-16"], choices=NETWORKS)
    parser.add_argument("--workers", default="0,2,4,6", help="numbers of workers; 0: one device alone (always first)")
    parser.add_argument("--iterations", type=int, default=5), parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3), parser.add_argument("--size", type=int, default=0, help="of the pictures instead of the network's")
    parser.add_argument("--coordinator", choices=["own", "with1"], default="own", help="in the last node of the shelf, or in node 1 beside a worker")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for [distributed], e.g. wire=fp16")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    options.darknet = os.path.abspath(options.darknet)
    if options.iterations < 1 or options.warmup < 1 or options.rounds < 1:
        parser.error("--iterations, --warmup and --rounds start at 1")
    limits = [line.split() for line in shelf("list").splitlines()]
    counts = [0] + [n for n in map(int, options.workers.split(",")) if n > 0]
    need = max(counts) + (options.coordinator == "own" and max(counts) > 0)
    if len(limits) < need:
        parser.error(f"{need} nodes are needed, the shelf has {len(limits)}: make cluster-up N={need}")
    result = {"nodes": [dict(zip(("node", "address", "rate", "cores", "memory_mib", "period_us"), row)) for row in limits], "options": vars(options), "networks": {}}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(folder)
        for name in options.networks:
            runs = {n: [] for n in counts}
            for _ in range(options.rounds):
                for n in counts:
                    place = len(limits) if n and options.coordinator == "own" else 1
                    runs[n].append(train(options, NETWORKS[name], n, place, folder))
                    failed += runs[n][-1] is None
            print(f"\n{name}: medians of {options.rounds} x {options.iterations} iterations; MB an iteration of the busiest port; peak MB of the largest node\n"
                  f"workers  s/iter.    least greatest speed-up  CPU s/i  ratio  sent MB  recv MB   worker  coord.  start s")
            table = {}
            for n in counts:
                table[n] = summary(runs[n], runs[0], len(limits) if n and options.coordinator == "own" else 1)
                if table[n]:
                    print_row(n, table[n])
            result["networks"][name] = {"summary": table, "runs": runs}
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
