#include "plugins/layers/yolo.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/text.hpp"

namespace tessera::layers {
namespace {

constexpr float kSomeClass = 0.25f;  // a class output that counts as a guess
constexpr int kLabelColumns = 5;

float logistic(float x) { return 1 / (1 + std::exp(-x)); }
float number(float x) { return std::isfinite(x) ? x : 0; }

}  // namespace

std::size_t Yolo::at(const layer& l, const Place& p, int entry) const {
  const auto plane = [&](long index) { return index * l.h * l.w; };
  return static_cast<std::size_t>(static_cast<long>(p.sample) * l.outputs + plane(static_cast<long>(p.anchor) * entries() + entry) +
                                  static_cast<long>(p.row) * l.w + p.column);
}

box Yolo::predicted(const layer& l, const Place& p, int net_w, int net_h) const {
  const float* o = l.output;
  const auto anchor = 2 * static_cast<std::size_t>(s_.mask[static_cast<std::size_t>(p.anchor)]);
  const auto side = [&](int i) {
    const float value = o[at(l, p, coordinate(i))];
    return s_.new_coords ? 4 * value * value : std::exp(value);
  };
  box b;
  b.w = side(2) * s_.anchors[anchor] / static_cast<float>(net_w);
  b.h = side(3) * s_.anchors[anchor + 1] / static_cast<float>(net_h);
  b.x = (static_cast<float>(p.column) + o[at(l, p, coordinate(0))]) / static_cast<float>(l.w) - s_.corner * b.w;
  b.y = (static_cast<float>(p.row) + o[at(l, p, coordinate(1))]) / static_cast<float>(l.h) - s_.corner * b.h;
  return b;
}

float Yolo::uncertainty(const layer& l, const Place& p) const {
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += s_.gaussian ? l.output[at(l, p, coordinate(i) + 1)] : 0;
  return sum / 4;
}

std::vector<Yolo::Label> Yolo::labels(const network& net, int sample) const {
  std::vector<Label> result;
  const float* row = net.truth + static_cast<long>(sample) * net.truths;
  for (int i = 0; i < std::min(s_.max_boxes, net.truths / kLabelColumns) && row[i * kLabelColumns] != 0; ++i) {
    const float* v = row + i * kLabelColumns;
    if (v[4] >= 0 && v[4] < static_cast<float>(s_.classes)) result.push_back({{v[0], v[1], v[2], v[3]}, static_cast<int>(v[4])});
  }
  return result;
}

void Yolo::forward(const layer& l, const network& net) {
  std::copy_n(net.input, elements(l), l.output);
  const long cells = static_cast<long>(l.w) * l.h;
  for (int b = 0; b < l.batch; ++b)
    for (int n = 0; n < l.n; ++n)
      for (int entry = 0; entry < entries(); ++entry) {
        const bool size = entry == coordinate(2) || entry == coordinate(3), centre = entry == coordinate(0) || entry == coordinate(1);
        float* values = l.output + at(l, {b, n, 0, 0}, entry);
        for (long i = 0; i < cells; ++i) {
          if (!s_.new_coords && !size) values[i] = logistic(values[i]);
          if (centre) values[i] = values[i] * s_.scale_xy - (s_.scale_xy - 1) / 2;
        }
      }
  if (!net.train) return;
  std::fill_n(l.delta, elements(l), 0.0f);
  lost_overlap_ = 0, matched_ = 0;
  for (int b = 0; b < l.batch; ++b) {
    const std::vector<Label> all = labels(net, b);
    for (int n = 0; n < l.n; ++n)
      for (int row = 0; row < l.h; ++row)
        for (int column = 0; column < l.w; ++column) background(l, net, {b, n, row, column}, all);
    for (const Label& label : all) match(l, net, b, label);
    if (s_.iou_thresh < 1 || s_.gaussian) share_boxes(l, b);
  }
  *l.cost = cost(l);
}

// Every anchor of every cell: no object, unless a label is near.
void Yolo::background(const layer& l, const network& net, const Place& p, const std::vector<Label>& labels) {
  const box b = predicted(l, p, net.w, net.h);
  bool guesses = false;
  for (int c = 0; c < s_.classes && !guesses; ++c) guesses = l.output[at(l, p, class_entry(c))] > kSomeClass;
  float best = 0;
  const Label* nearest = nullptr;
  for (const Label& label : labels)
    if (const float value = iou(b, label.b); value > best) best = value, nearest = &label;
  const float o = l.output[at(l, p, objectness())];
  float& delta = l.delta[at(l, p, objectness())];
  delta = s_.obj_normalizer * -o;
  if (nearest && guesses && best > s_.ignore_thresh) {
    if (!s_.objectness_smooth)
      delta = 0;
    else if (s_.gaussian)
      delta = s_.obj_normalizer * (best * best - o), class_delta(l, p, nearest->class_id);
    else
      delta = std::max(delta, s_.obj_normalizer * (best - o));
  }
  if (!nearest || best <= s_.truth_thresh) return;
  delta = s_.obj_normalizer * ((s_.objectness_smooth ? best * best : 1) - o);
  class_delta(l, p, nearest->class_id);
  if (s_.objectness_smooth) {
    const std::size_t own = at(l, p, class_entry(nearest->class_id));
    l.delta[own] = multiplier(nearest->class_id) * (best * best - l.output[own]);
  }
  box_delta(l, net, p, *nearest, false);
}

// The anchor that fits the label best, and others above iou_thresh, if they are this head's.
void Yolo::match(const layer& l, const network& net, int sample, const Label& label) {
  const float x = label.b.x + s_.corner * label.b.w, y = label.b.y + s_.corner * label.b.h;
  const int column = static_cast<int>(x * static_cast<float>(l.w)), row = static_cast<int>(y * static_cast<float>(l.h));
  if (column < 0 || row < 0 || column >= l.w || row >= l.h) return;
  const box size{0, 0, label.b.w, label.b.h};
  const auto anchor_box = [&](std::size_t n) {
    return box{0, 0, s_.anchors[2 * n] / static_cast<float>(net.w), s_.anchors[2 * n + 1] / static_cast<float>(net.h)};
  };
  std::size_t best = 0;
  float most = 0;
  for (std::size_t n = 0; n < s_.anchors.size() / 2; ++n)
    if (const float value = iou(anchor_box(n), size); value > most) most = value, best = n;
  const auto place = [&](std::size_t n) -> std::optional<Place> {
    const auto found = std::find(s_.mask.begin(), s_.mask.end(), static_cast<int>(n));
    if (found == s_.mask.end()) return {};
    return Place{sample, static_cast<int>(found - s_.mask.begin()), row, column};
  };
  if (const auto p = place(best)) learn(l, net, *p, label, true);
  for (std::size_t n = 0; s_.iou_thresh < 1 && n < s_.anchors.size() / 2; ++n)
    if (const auto p = place(n); p && n != best && overlap(anchor_box(n), size, s_.thresh_kind) > s_.iou_thresh)
      learn(l, net, *p, label, true);
}

void Yolo::learn(const layer& l, const network& net, const Place& p, const Label& label, bool counted) {
  box_delta(l, net, p, label, counted);
  float& delta = l.delta[at(l, p, objectness())];
  if (!s_.objectness_smooth || delta == 0 || s_.gaussian)
    delta = multiplier(label.class_id) * s_.obj_normalizer * (1 - l.output[at(l, p, objectness())]);
  class_delta(l, p, label.class_id);
}

void Yolo::box_delta(const layer& l, const network& net, const Place& p, const Label& label, bool counted) {
  const box b = predicted(l, p, net.w, net.h);
  if (counted) {
    lost_overlap_ += 1 - (s_.loss == BoxLoss::kGiou ? overlap(b, label.b, BoxLoss::kGiou) : iou(b, label.b));
    ++matched_;
  }
  const auto anchor = 2 * static_cast<std::size_t>(s_.mask[static_cast<std::size_t>(p.anchor)]);
  const float* o = l.output;
  const float net_side[2] = {static_cast<float>(net.w), static_cast<float>(net.h)}, sizes[2] = {label.b.w, label.b.h};
  const float importance = 2 - label.b.w * label.b.h;
  float difference[4];
  difference[0] = (label.b.x + s_.corner * label.b.w) * static_cast<float>(l.w) - static_cast<float>(p.column);
  difference[1] = (label.b.y + s_.corner * label.b.h) * static_cast<float>(l.h) - static_cast<float>(p.row);
  for (std::size_t i = 0; i < 2; ++i) {
    const float ratio = sizes[i] * net_side[i] / s_.anchors[anchor + i];
    difference[2 + i] = s_.new_coords ? std::sqrt(ratio / 4) : std::log(ratio);
  }
  for (int i = 0; i < 4; ++i) difference[i] -= o[at(l, p, coordinate(i))];

  const auto cut = [&](float delta) { return std::clamp(number(delta), -s_.max_delta, s_.max_delta); };
  const float strength = s_.iou_normalizer * (s_.gaussian ? 1 : multiplier(label.class_id));
  float means[4];
  for (int i = 0; i < 4; ++i) means[i] = difference[i] * importance;
  for (int i = 0; s_.gaussian && i < 4; ++i) {
    constexpr float kRootTwoPi = 2.50662827f, kLeastSigma = 0.3f, kTiny = 1e-9f;
    const float sigma = o[at(l, p, coordinate(i) + 1)], q = difference[i] / sigma;
    const float density = std::exp(-q * q / 2) / (kRootTwoPi * (sigma + kLeastSigma));
    const float t = 0.5f * density / (density + kTiny) * importance;
    means[i] = t * q / sigma;
    l.delta[at(l, p, coordinate(i) + 1)] += cut(s_.uc_normalizer * t * (q * q / sigma - 1 / (sigma + kLeastSigma)));
  }
  if (s_.loss != BoxLoss::kMse) {
    const BoxGradient g = overlap_gradient(b, label.b, s_.loss);
    const auto scale = [&](int i) { return s_.new_coords ? 1 : std::exp(o[at(l, p, coordinate(i))]); };
    means[0] = g.x, means[1] = g.y, means[2] = g.w * scale(2), means[3] = g.h * scale(3);
  }
  const bool bounded = s_.loss != BoxLoss::kMse || s_.gaussian;
  for (int i = 0; i < 4; ++i) l.delta[at(l, p, coordinate(i))] += bounded ? cut(means[i] * strength) : means[i] * strength;
}

void Yolo::class_delta(const layer& l, const Place& p, int class_id) const {
  const auto index = [&](int c) { return at(l, p, class_entry(c)); };
  const auto smoothed = [&](bool is) { return (is ? 1 - s_.label_smooth : 0) + s_.label_smooth / 2; };
  const float* o = l.output;
  const bool known = !s_.class_multipliers.empty();
  if (l.delta[index(s_.gaussian ? 0 : class_id)] != 0) {
    l.delta[index(class_id)] = (smoothed(true) - o[index(class_id)]) * multiplier(class_id);
    return;
  }
  float slope = 1;
  if (s_.focal_loss) {
    const float truth = o[index(class_id)] + 1e-15f;
    slope = 0.5f * -(1 - truth) * (2 * truth * std::log(truth) + truth - 1);
  }
  for (int c = 0; c < s_.classes; ++c) {
    const bool is = c == class_id;
    l.delta[index(c)] = ((s_.focal_loss ? is : smoothed(is)) - o[index(c)]) * slope;
    if (is && known && !s_.focal_loss) l.delta[index(c)] *= multiplier(class_id) * s_.cls_normalizer;
  }
}

// A box that stands for several classes learns their mean.
void Yolo::share_boxes(const layer& l, int sample) const {
  for (int n = 0; n < l.n; ++n)
    for (int row = 0; row < l.h; ++row)
      for (int column = 0; column < l.w; ++column) {
        const Place p{sample, n, row, column};
        if (l.delta[at(l, p, objectness())] == 0) continue;
        int positive = 0;
        for (int c = 0; c < s_.classes; ++c) positive += l.delta[at(l, p, class_entry(c))] > 0;
        for (int entry = 0; positive > 0 && entry < objectness(); ++entry) l.delta[at(l, p, entry)] /= static_cast<float>(positive);
      }
}

float Yolo::cost(const layer& l) const {
  double all = 0, boxes = 0;
  const long cells = static_cast<long>(l.w) * l.h;
  for (long i = 0; i < elements(l); ++i) {
    const double part = static_cast<double>(l.delta[i]) * l.delta[i];
    all += part;
    if (i / cells % entries() < objectness()) boxes += part;
  }
  if (s_.loss == BoxLoss::kMse || s_.gaussian || !s_.show_details) return static_cast<float>(all);
  return static_cast<float>(s_.iou_normalizer * lost_overlap_ / static_cast<double>(std::max(1L, matched_)) +
                            s_.obj_normalizer * (all - boxes));
}

void Yolo::backward(const layer& l, const network& net) {
  for (long i = 0; net.delta && i < elements(l); ++i) net.delta[i] += l.delta[i];
}

void Yolo::resize(layer& l, int w, int h, const network&) {
  l.w = w, l.h = h;
  darknet::set_output(l, w, h);
  l.inputs = l.outputs;
}

int Yolo::count_detections(const layer& l, float threshold) const {
  int count = 0;
  for (int n = 0; n < l.n; ++n)
    for (int row = 0; row < l.h; ++row)
      for (int column = 0; column < l.w; ++column) count += l.output[at(l, {0, n, row, column}, objectness())] > threshold;
  return count;
}

int Yolo::detections(const layer& l, int net_w, int net_h, float threshold, detection* found) const {
  int count = 0;
  for (int row = 0; row < l.h; ++row)
    for (int column = 0; column < l.w; ++column)
      for (int n = 0; n < l.n; ++n) {
        const Place p{0, n, row, column};
        const float object = l.output[at(l, p, objectness())];
        if (!(object > threshold)) continue;
        detection& d = found[count++];
        d.bbox = predicted(l, p, net_w, net_h);
        d.objectness = object;
        d.classes = s_.classes;
        for (int c = 0; c < s_.classes; ++c) {
          const float probability = object * l.output[at(l, p, class_entry(c))] * (1 - uncertainty(l, p));
          d.prob[c] = probability > threshold ? probability : 0;
        }
      }
  return count;
}

namespace {

layer make_head(const Making& making, bool gaussian) {
  const cfg::CfgSection& s = making.section();
  const auto real = [&](const char* key, double fallback) { return static_cast<float>(s.real(key, fallback)); };
  const auto reals = [&](const char* key) {
    std::vector<float> values;
    if (const cfg::CfgOption* option = s.find(key))
      for (const std::string& part : base::split(option->value, ',')) values.push_back(static_cast<float>(*base::to_real(part)));
    return values;
  };
  const bool alexey = making.cfg.alexey;
  YoloSettings y;
  y.gaussian = gaussian;
  y.classes = static_cast<int>(s.integer("classes", 20));
  y.max_boxes = static_cast<int>(s.integer("max", alexey ? 200 : 90));
  const int total = static_cast<int>(s.integer("num", 1));
  for (float value : reals("mask")) y.mask.push_back(static_cast<int>(value));
  for (int i = 0; y.mask.empty() && i < total; ++i) y.mask.push_back(i);
  y.anchors = reals("anchors");
  if (y.anchors.empty()) y.anchors.assign(2 * static_cast<std::size_t>(total), 0.5f);
  y.ignore_thresh = real("ignore_thresh", 0.5), y.truth_thresh = real("truth_thresh", 1), y.iou_thresh = real("iou_thresh", 1);
  y.scale_xy = real("scale_x_y", 1);
  y.new_coords = s.integer("new_coords", 0);
  y.loss = box_loss(s.text("iou_loss", "mse")), y.thresh_kind = box_loss(s.text("iou_thresh_kind", "iou"));
  y.iou_normalizer = real("iou_normalizer", alexey ? 0.75 : 1), y.obj_normalizer = real("obj_normalizer", 1);
  y.cls_normalizer = real("cls_normalizer", 1), y.uc_normalizer = real("uc_normalizer", 1);
  y.max_delta = real("max_delta", std::numeric_limits<float>::max());
  y.objectness_smooth = s.integer("objectness_smooth", 0), y.focal_loss = s.integer("focal_loss", 0);
  y.show_details = s.integer("show_details", 1);
  y.label_smooth = real("label_smooth_eps", 0);
  y.class_multipliers = reals("counters_per_class");
  if (!y.class_multipliers.empty()) {
    const float most = *std::max_element(y.class_multipliers.begin(), y.class_multipliers.end());
    for (float& counter : y.class_multipliers) counter = std::min(counter > 0 ? most / counter : 1, y.max_delta);
  }
  const std::string point = s.text("yolo_point", "center"), nms = s.text("nms_kind", "default");
  y.corner = point == "left_top" ? -0.5f : point == "right_bottom" ? 0.5f : 0;
  y.suppression = nms == "greedynms" ? Suppression::kGreedy : nms == "diounms" ? Suppression::kDistance : Suppression::kDefault;
  y.suppression_exponent = real("beta_nms", 0.6);

  layer l = darknet::blank_layer(making, YOLO);
  l.n = static_cast<int>(y.mask.size());
  l.total = total;
  l.classes = y.classes;
  l.max_boxes = y.max_boxes;
  l.truths = y.max_boxes * kLabelColumns;
  l.jitter = real("jitter", 0.2);
  l.random = s.real("random", 0) != 0;
  l.ignore_thresh = y.ignore_thresh, l.truth_thresh = y.truth_thresh;
  l.cost = static_cast<float*>(std::calloc(1, sizeof(float)));
  l.biases = static_cast<float*>(std::malloc(y.anchors.size() * sizeof(float)));
  std::copy(y.anchors.begin(), y.anchors.end(), l.biases);
  l.mask = static_cast<int*>(std::malloc(y.mask.size() * sizeof(int)));
  std::copy(y.mask.begin(), y.mask.end(), l.mask);
  darknet::install(l, std::make_unique<Yolo>(std::move(y)));
  return l;
}

}  // namespace

layer make_yolo(const Making& making) { return make_head(making, false); }
layer make_gaussian_yolo(const Making& making) { return make_head(making, true); }

}  // namespace tessera::layers
