#include "tests/support/random_network.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace tessera::testing {

namespace {

const std::vector<std::string> kActivations = {"logistic", "loggy",  "relu", "elu",   "relie", "plse",  "hardtan",
                                               "lhtan",    "linear", "ramp", "leaky", "tanh",  "stair", "selu"};
constexpr int kClasses = 3;
constexpr int kHeadChannels = 2 * (5 + kClasses);  // two anchors

class Writer {
 public:
  Writer(Rng& rng, const NetworkOptions& options) : rng_(rng), options_(options) {}

  // Image sides that become `map` after `halvings`, each rounding up.
  void net(int map_height, int map_width, int halvings) {
    const int most = (1 << halvings) - 1;
    text_ = fmt::format("[net]\nbatch={}\nsubdivisions={}\nheight={}\nwidth={}\nchannels={}\n{}", options_.batch * options_.subdivisions,
                        options_.subdivisions, (map_height << halvings) - rng_.between(0, most),
                        (map_width << halvings) - rng_.between(0, most), rng_.chance(0.8) ? 3 : rng_.between(1, 4), options_.training);
  }
  void square_net(int side) {
    text_ = fmt::format("[net]\nbatch={}\nsubdivisions={}\nheight={}\nwidth={}\nchannels=3\n{}", options_.batch * options_.subdivisions,
                        options_.subdivisions, side, side, options_.training);
  }

  int layers() const { return layers_; }
  int width(int base) { return base + rng_.between(0, 2); }

  void section(const std::string& text) {
    text_ += "\n" + text;
    ++layers_;
  }
  void conv(int filters, int size, int stride, const std::string& usual = "leaky") {
    const bool normalize = options_.plain || rng_.chance(0.8);
    std::string text = fmt::format("[convolutional]\n{}filters={}\nsize={}\nstride={}\npad=1\nactivation={}\n",
                                   normalize ? "batch_normalize=1\n" : "", filters, size, stride, activation(usual));
    if (!options_.plain && rng_.chance(0.1)) text += "learning_rate=0.5\n";
    if (options_.may_stop_backward && layers_ > 0 && rng_.chance(0.04)) text += "stopbackward=1\n";
    section(text);
  }
  void head() { section(fmt::format("[convolutional]\nfilters={}\nsize=1\nstride=1\npad=1\nactivation=linear\n", kHeadChannels)); }
  void maxpool(int size, int stride) { section(fmt::format("[maxpool]\nsize={}\nstride={}\n", size, stride)); }
  void route(const std::string& layers) { section(fmt::format("[route]\nlayers={}\n", layers)); }
  void shortcut(int from, const std::string& usual) {
    std::string text = fmt::format("[shortcut]\nfrom={}\nactivation={}\n", from, activation(usual));
    if (!options_.plain && rng_.chance(0.15)) text += fmt::format("alpha={}\nbeta={}\n", 0.5, 1.5);
    section(text);
  }
  void upsample() { section(rng_.chance(0.8) ? "[upsample]\nstride=2\n" : "[upsample]\nstride=2\nscale=0.7\n"); }
  void reorg(bool reverse) { section(reverse ? "[reorg]\nstride=2\nreverse=1\n" : "[reorg]\nstride=2\n"); }
  void region() {
    section(
        fmt::format("[region]\nanchors=1.3,1.2,3.1,2.9\nbias_match=1\nclasses={}\ncoords=4\nnum=2\nsoftmax=1\njitter=.2\nrescore=1\n"
                    "object_scale=5\nnoobject_scale=1\nclass_scale=1\ncoord_scale=1\nabsolute=1\nthresh=.6\nrandom=0\n",
                    kClasses));
  }
  void yolo(const std::string& mask) {
    section(fmt::format(
        "[yolo]\nmask={}\nanchors=6,7, 9,12, 14,11, 18,21\nclasses={}\nnum=4\njitter=.3\nignore_thresh=.7\ntruth_thresh=1\nrandom=0\n",
        mask, kClasses));
  }
  void classifier() {
    section("[avgpool]\n");
    section("[softmax]\ngroups=1\n");
  }
  std::string text() const { return text_; }

 private:
  std::string activation(const std::string& usual) { return options_.plain || rng_.chance(0.6) ? usual : rng_.pick(kActivations); }

  Rng& rng_;
  const NetworkOptions& options_;
  std::string text_;
  int layers_ = 0;
};

void yolov2_tiny(Rng& rng, Writer& w) {
  const int pools = rng.between(1, 3);
  w.net(rng.between(4, 7), rng.between(4, 7), pools);
  for (int i = 0; i < pools; ++i) {
    w.conv(w.width(3 + i), 3, 1);
    w.maxpool(2, 2);
  }
  w.conv(w.width(5), 3, 1);
  w.maxpool(2, 1);
  if (rng.chance(0.3)) w.maxpool(rng.pick(std::vector<int>{5, 9, 13}), 1);
  w.conv(w.width(6), 3, 1);
  w.conv(w.width(5), 3, 1);
  w.head();
  w.region();
}

void yolov2(Rng& rng, Writer& w) {
  const int pools = rng.between(0, 2);
  w.net(2 * rng.between(4, 6), 2 * rng.between(4, 6), pools);
  for (int i = 0; i < pools; ++i) {
    w.conv(w.width(3 + i), 3, 1);
    w.maxpool(2, 2);
  }
  w.conv(w.width(5), 3, 1);
  w.conv(w.width(3), 1, 1);
  w.conv(w.width(5), 3, 1);
  const int passed_on = w.layers() - 1;
  w.maxpool(2, 2);
  w.conv(w.width(6), 3, 1);
  w.conv(w.width(4), 1, 1);
  w.conv(w.width(6), 3, 1);
  const int deep = w.layers() - 1;
  w.route(fmt::format("{}", passed_on - w.layers()));
  w.conv(4, rng.chance(0.7) ? 1 : 3, 1);  // reorg divides the channels by 4
  w.reorg(false);
  w.route(fmt::format("-1,{}", deep - w.layers()));
  w.conv(w.width(6), 3, 1);
  if (rng.chance(0.2)) {  // the other way round, which no cfg of upstream has
    w.conv(8, 3, 1);
    w.reorg(true);
    w.conv(4, 3, 2);
  }
  w.head();
  w.region();
}

void yolov3_tiny(Rng& rng, Writer& w) {
  const int pools = rng.between(1, 2);
  w.net(2 * rng.between(4, 6), 2 * rng.between(4, 6), pools);
  for (int i = 0; i < pools; ++i) {
    w.conv(w.width(3 + i), 3, 1);
    w.maxpool(2, 2);
  }
  w.conv(w.width(5), 3, 1);
  const int passed_on = w.layers() - 1;
  w.maxpool(2, 2);
  w.conv(w.width(6), 3, 1);
  w.maxpool(2, 1);
  w.conv(w.width(6), 3, 1);
  w.conv(w.width(4), 1, 1);
  w.conv(w.width(6), 3, 1);
  w.head();
  w.yolo("2,3");
  w.route("-4");
  w.conv(w.width(3), 1, 1);
  w.upsample();
  w.route(fmt::format("-1, {}", passed_on));
  w.conv(w.width(5), 3, 1);
  w.head();
  w.yolo("0,1");
}

void residual(Writer& w, int filters, int blocks, const std::string& activation) {
  for (int i = 0; i < blocks; ++i) {
    w.conv(std::max(1, filters / 2), 1, 1);
    w.conv(filters, 3, 1);
    w.shortcut(-3, activation);
  }
}

int darknet53_body(Rng& rng, Writer& w) {
  w.conv(w.width(3), 3, 1);
  const int wide = w.width(4), middle = w.width(5), deep = w.width(6);
  w.conv(wide, 3, 2);
  residual(w, wide, 1, "linear");
  w.conv(middle, 3, 2);
  residual(w, middle, rng.between(1, 2), "linear");
  const int passed_on = w.layers() - 1;
  w.conv(deep, 3, 2);
  residual(w, deep, rng.between(1, 2), "linear");
  return passed_on;
}

void yolov3(Rng& rng, Writer& w) {
  w.net(2 * rng.between(4, 5), 2 * rng.between(4, 5), 2);
  const int passed_on = darknet53_body(rng, w);
  w.conv(w.width(4), 1, 1);
  w.conv(w.width(6), 3, 1);
  w.conv(w.width(4), 1, 1);
  w.conv(w.width(6), 3, 1);
  w.head();
  w.yolo("2,3");
  w.route("-4");
  w.conv(w.width(3), 1, 1);
  w.upsample();
  w.route(fmt::format("-1, {}", passed_on));
  w.conv(w.width(4), 1, 1);
  w.conv(w.width(5), 3, 1);
  w.head();
  w.yolo("0,1");
}

void darknet19(Rng& rng, Writer& w) {
  const int pools = rng.between(1, 2);
  w.net(rng.between(5, 8), rng.between(5, 8), pools + 1);
  for (int i = 0; i < pools; ++i) {
    w.conv(w.width(3 + i), 3, 1);
    w.maxpool(2, 2);
  }
  for (int i = 0; i < 2; ++i) {
    w.conv(w.width(5), 3, 1);
    w.conv(w.width(3), 1, 1);
    w.conv(w.width(5), 3, 1);
    if (i == 0) w.maxpool(2, 2);
  }
  w.section(fmt::format("[convolutional]\nfilters={}\nsize=1\nstride=1\npad=1\nactivation=linear\n", kClasses));
  w.classifier();
}

void darknet53(Rng& rng, Writer& w) {
  w.net(rng.between(4, 6), rng.between(4, 6), 3);
  darknet53_body(rng, w);
  w.classifier();
}

void resnet(Rng& rng, Writer& w, bool bottleneck) {
  w.square_net(rng.between(33, 50));
  w.conv(w.width(4), 7, 2);
  w.maxpool(2, 2);
  for (int stage = 0; stage < 2; ++stage) {
    const int filters = w.width(4 + stage), blocks = rng.between(1, 2);
    for (int i = 0; i < blocks; ++i) {
      const int stride = stage > 0 && i == 0 ? 2 : 1;
      if (bottleneck) {
        w.conv(w.width(3), 1, 1);
        w.conv(w.width(3), 3, stride);
        w.conv(2 * filters, 1, 1, "linear");
        w.shortcut(-4, "leaky");
      } else {
        w.conv(filters, 3, stride);
        w.conv(filters, 3, 1, "linear");
        w.shortcut(-3, "leaky");
      }
    }
  }
  w.classifier();
}

}  // namespace

const std::vector<Family>& all_families() {
  static const std::vector<Family> families = {Family::kYolov2Tiny, Family::kYolov2,    Family::kYolov3Tiny, Family::kYolov3,
                                               Family::kDarknet19,  Family::kDarknet53, Family::kResnet18,   Family::kResnet50};
  return families;
}

const char* to_string(Family family) {
  switch (family) {
    case Family::kYolov2Tiny:
      return "yolov2-tiny";
    case Family::kYolov2:
      return "yolov2";
    case Family::kYolov3Tiny:
      return "yolov3-tiny";
    case Family::kYolov3:
      return "yolov3";
    case Family::kDarknet19:
      return "darknet19";
    case Family::kDarknet53:
      return "darknet53";
    case Family::kResnet18:
      return "resnet18";
    case Family::kResnet50:
      return "resnet50";
  }
  return "";
}

std::string random_network(Rng& rng, Family family, const NetworkOptions& options) {
  Writer writer(rng, options);
  switch (family) {
    case Family::kYolov2Tiny:
      yolov2_tiny(rng, writer);
      break;
    case Family::kYolov2:
      yolov2(rng, writer);
      break;
    case Family::kYolov3Tiny:
      yolov3_tiny(rng, writer);
      break;
    case Family::kYolov3:
      yolov3(rng, writer);
      break;
    case Family::kDarknet19:
      darknet19(rng, writer);
      break;
    case Family::kDarknet53:
      darknet53(rng, writer);
      break;
    case Family::kResnet18:
      resnet(rng, writer, false);
      break;
    case Family::kResnet50:
      resnet(rng, writer, true);
      break;
  }
  return writer.text();
}

}  // namespace tessera::testing
