// Every option of every command: a name means the same for all of them.
#include <algorithm>
#include <array>

#include "darknet/commands/commands.hpp"

namespace tessera::darknet {
namespace {

using enum OptionKind;

constexpr OptionSpec kOptions[] = {
    {"map", kFlag, "measure mAP on the valid list while training and keep the best weights"},
    {"map_every", kInteger, "iterations between two measurements (default: an epoch, at least 100)"},
    {"stock_gradients", kFlag,
     "1x1 convolutions and reorg replace what other layers add to their input's gradient, as upstream's CPU code does"},
    {"letter_box", kFlag, "pictures are scaled to fit instead of stretched, where the cfg is AlexeyAB's"},
    {"clear", kFlag, "count images and iterations from 0"},
    {"alpha", kReal, "partition: of the Dirichlet distribution, the smaller the more unequal (default: the same mixture for all)"},
    {"resume", kFlag, "go on from the newest checkpoint in the backup folder; start as without it when there is none"},
    {"seed", kInteger, "random seed of weights, pictures and augmentation (default 1)"},
    {"log", kText, "append every log line to this file, too"},
    {"verbose", kFlag, "say more"},
    {"backend", kText,
     "convolutions by onednn, blas or reference; auto: the fastest as measured (default); stock: everything on "
     "upstream's code"},
    {"insecure", kFlag, "let workers be reached without keys from other machines"},
    {"dont_show", kFlag, "open no window"},
    {"listen", kText, "worker: address to serve at (default tcp://127.0.0.1:5555)"},
    {"name", kText, "worker: how it calls itself (default: the host's name)"},
    {"threads", kInteger, "worker: threads to compute with (default: all cores)"},
    {"mode", kText, "plan: tiles (default), or split: every device trains the front of the network, a server the rest"},
    {"cluster", kText, "plan -mode split: the cluster file (default: as the cfg says)"},
    {"sync_every", kInteger, "plan -mode split: rounds between two aggregations (default 1)"},
    {"privacy_min_layers", kInteger, "plan -mode split: layers that stay on every device at least (default 1)"},
    {"gantt", kText, "plan -mode split: draw the round into this PNG"},
    {"workers", kInteger, "plan: how many (default: as the cfg says)"},
    {"grid", kText, "plan: ROWSxCOLUMNS of tiles (default: as the cfg says)"},
    {"batch", kInteger, "plan: pictures at once (default: batch / subdivisions)"},
    {"profile", kText, "plan: devices like local, pi3, pi3+, pi4 or pi5"},
    {"print", kFlag, "plan: every step of every device (not with -json)"},
    {"json", kFlag, "plan: as JSON"},
    {"test", kFlag, "plan: for inference"},
    {"once", kFlag, "worker: leave after one session"},
    {"parent", kInteger, "worker: leave when this process is not its parent any more"},
    {"shared_memory", kInteger, "worker: file descriptor of memory shared with the process that started it (-1: none)"},
    {"iou_thresh", kReal, "overlap a detection needs to count (default 0.5)"},
    {"points", kInteger, "0: area under the curve (default); 11 or 101: mean over so many recalls"},
    {"thresh", kReal, "lowest score of a detection (default 0.25)"},
    {"hier", kReal, "threshold in a class tree (default 0.5)"},
    {"nms", kReal, "overlap above which the weaker detection goes (default 0.45)"},
    {"ext_output", kFlag, "print boxes in pixels"},
    {"save_labels", kFlag, "write what was found as the label file of each image, where training would read it"},
    {"out", kText, "results: x.json, a picture, or the beginning of result files' names"},
    {"data", kText, ".data file with the class names"},
    {"num_of_clusters", kInteger, "anchors to find (default 5)"},
    {"width", kInteger, "width of the network's input"},
    {"height", kInteger, "height of the network's input"},
    {"top", kInteger, "classes to print, or to accept"},
    {"t", kInteger, "the same as -top"},
    {"c", kInteger, "number of the camera (default 0)"},
    {"out_filename", kText, "write the video with boxes to this file"},
    {"prefix", kText, "write every frame to PREFIX_00000000.jpg, ..."},
    {"gpus", kText, ""},
    {"i", kInteger, ""},
    {"nogpu", kFlag, ""},
    {"mjpeg_port", kInteger, ""},
    {"json_port", kInteger, ""},
    {"http_port", kInteger, ""},
    {"benchmark_layers", kFlag, ""},
    {"show_imgs", kFlag, ""},
    {"fullscreen", kFlag, ""},
    {"show", kFlag, ""},
    {"avg", kInteger, ""},
    {"s", kInteger, ""},
    {"w", kInteger, ""},
    {"h", kInteger, ""},
    {"fps", kReal, ""},
};

// Options above that are taken for the sake of other Darknets' command lines.
constexpr std::array kWithoutEffect = {"gpus",      "i",          "nogpu", "mjpeg_port", "json_port", "http_port", "benchmark_layers",
                                       "show_imgs", "fullscreen", "show",  "avg",        "s",         "w",         "h",
                                       "fps",       "dont_show"};

}  // namespace

std::span<const OptionSpec> all_options() { return kOptions; }

bool is_accepted_without_effect(const std::string& option) {
  return std::find(kWithoutEffect.begin(), kWithoutEffect.end(), option) != kWithoutEffect.end();
}

}  // namespace tessera::darknet
