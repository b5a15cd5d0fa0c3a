#!/usr/bin/python3
"""Training iterations of a Darknet cfg in PyTorch: seconds of each and peak memory.

Usage: pytorch_training.py CFG THREADS ITERATIONS [contiguous|channels_last]

The network is that of the cfg up to its heads; the loss is the mean square of what the heads would get. An iteration
is forward, loss, backward and an SGD step with momentum on a batch that does not change. Prints a line per iteration
in the form of Darknet's own, "N: loss, S seconds, ...", and then the peak of resident memory.
"""
import sys
import time

import torch
from torch import nn
from torch.nn import functional


def read_cfg(path):
    """The sections as [(name, {key: value})]."""
    sections = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.split("#")[0].split(";")[0].strip()
            if line.startswith("["):
                sections.append((line.strip("[]"), {}))
            elif "=" in line and sections:
                key, value = line.split("=", 1)
                sections[-1][1][key.strip()] = value.strip()
            elif line:
                sys.exit(f"{path}:{number}: neither a section nor key=value")
    return sections


def activate(x, name):
    if name == "leaky":
        return functional.leaky_relu(x, 0.1, inplace=True)
    if name == "linear":
        return x
    sys.exit(f"activation={name} is not known here; add it to activate()")


class Convolutional(nn.Module):
    def __init__(self, options, in_channels):
        super().__init__()
        size, self.activation = int(options.get("size", 1)), options.get("activation", "logistic")
        padding = size // 2 if int(options.get("pad", 0)) else int(options.get("padding", 0))
        self.channels, normalize = int(options.get("filters", 1)), bool(int(options.get("batch_normalize", 0)))
        self.convolution = nn.Conv2d(in_channels, self.channels, size, int(options.get("stride", 1)), padding,
                                     groups=int(options.get("groups", 1)), bias=not normalize)
        self.normalization = nn.BatchNorm2d(self.channels) if normalize else nn.Identity()

    def forward(self, x, _):
        return activate(self.normalization(self.convolution(x)), self.activation)


class Maxpool(nn.Module):
    """Darknet's padding is the sum of both sides, the smaller half of it before the map."""

    def __init__(self, options, channels):
        super().__init__()
        self.stride = int(options.get("stride", 1))
        self.size = int(options.get("size", self.stride))
        self.padding, self.channels = int(options.get("padding", self.size - 1)), channels

    def forward(self, x, _):
        before = self.padding // 2
        after = [(side + self.padding - self.size) // self.stride * self.stride + self.size - side - before
                 for side in x.shape[2:]]
        if before or max(after) > 0:
            x = functional.pad(x, (before, max(after[1], 0), before, max(after[0], 0)), value=float("-inf"))
        return functional.max_pool2d(x, self.size, self.stride)


class Route(nn.Module):
    def __init__(self, layers, channels):
        super().__init__()
        self.layers, self.channels = layers, channels

    def forward(self, _, outputs):
        found = [outputs[layer] for layer in self.layers]
        return found[0] if len(found) == 1 else torch.cat(found, 1)


class Shortcut(nn.Module):
    """Where the shapes differ, the channels and every n-th pixel that fit are added, as in Darknet."""

    def __init__(self, layer, activation, channels):
        super().__init__()
        self.layer, self.activation, self.channels = layer, activation, channels

    def forward(self, x, outputs):
        other = outputs[self.layer]
        step, common = other.shape[2] // x.shape[2], min(self.channels, other.shape[1])
        other = functional.pad(other[:, :common, ::step, ::step], (0, 0, 0, 0, 0, self.channels - common))
        return activate(x + other, self.activation)


class Upsample(nn.Module):
    def __init__(self, options, channels):
        super().__init__()
        self.factor, self.channels = int(options.get("stride", 2)), channels

    def forward(self, x, _):
        return functional.interpolate(x, scale_factor=self.factor, mode="nearest")


class Reorg(nn.Module):
    """Pixels to channels; Darknet orders the channels in another way, which costs the same."""

    def __init__(self, options, channels):
        super().__init__()
        self.factor = int(options.get("stride", 1))
        self.channels = channels * self.factor * self.factor

    def forward(self, x, _):
        return functional.pixel_unshuffle(x, self.factor)


class Head(nn.Module):
    """Stands for [region] and [yolo]: passes its input on."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x, _):
        return x


class Network(nn.Module):
    def __init__(self, sections):
        super().__init__()
        self.layers, self.needed = nn.ModuleList(), set()
        channels = [int(sections[0][1].get("channels", 3))]  # of the input, then of each layer
        for name, options in sections[1:]:
            if name != "distributed":
                self.layers.append(self.layer(name, options, channels))
                channels.append(self.layers[-1].channels)

    def layer(self, name, options, channels):
        def absolute(text):
            number = int(text)
            number += len(self.layers) if number < 0 else 0
            self.needed.add(number)
            return number

        if name == "convolutional":
            return Convolutional(options, channels[-1])
        if name == "maxpool":
            return Maxpool(options, channels[-1])
        if name == "route":
            layers = [absolute(text) for text in options["layers"].split(",")]
            return Route(layers, sum(channels[layer + 1] for layer in layers))
        if name == "shortcut":
            return Shortcut(absolute(options["from"]), options.get("activation", "linear"), channels[-1])
        if name == "upsample":
            return Upsample(options, channels[-1])
        if name == "reorg":
            return Reorg(options, channels[-1])
        if name in ("region", "yolo"):
            return Head(channels[-1])
        sys.exit(f"[{name}] is not known here; add it to Network.layer()")

    def forward(self, x):
        """What each head gets."""
        outputs, heads = {}, []
        for index, layer in enumerate(self.layers):
            x = layer(x, outputs)
            if index in self.needed:
                outputs[index] = x
            if isinstance(layer, Head):
                heads.append(x)
        return heads


def peak_bytes():
    """Of this program alone; ru_maxrss would contain the one that started it."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    layout = {"contiguous": torch.contiguous_format,
              "channels_last": torch.channels_last}[sys.argv[4] if len(sys.argv) == 5 else "contiguous"]
    sections = read_cfg(sys.argv[1])
    threads, iterations = int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    net = sections[0][1]
    batch = int(net["batch"]) // int(net.get("subdivisions", 1))
    pictures = torch.rand(batch, int(net.get("channels", 3)), int(net["height"]), int(net["width"]))
    pictures = pictures.to(memory_format=layout)
    network = Network(sections).train().to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    for iteration in range(1, iterations + 1):
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = sum((head * head).mean() for head in network(pictures))
        loss.backward()
        optimizer.step()
        seconds = time.perf_counter() - begin
        print(f"{iteration}: {loss.item():f}, {seconds:f} seconds, {iteration * batch} images", flush=True)
    print(f"peak {peak_bytes() / 1e6:.0f} MB, PyTorch {torch.__version__}, {threads} threads")


if __name__ == "__main__":
    main()
