#include "cfg/cfg_check.hpp"

#include <algorithm>
#include <climits>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <set>
#include <utility>

#include "base/text.hpp"
#include "cfg/cfg_keys.hpp"

namespace tessera::cfg {
namespace {

constexpr long kMostBoxes = 10000;  // boxes per image a [yolo] layer can hold
constexpr long kRegionBoxes = 30;   // and a [region] layer

// Saturates: what does not fit is far beyond every limit.
std::int64_t product(std::initializer_list<std::int64_t> factors) {
  std::int64_t value = 1;
  for (const std::int64_t factor : factors)
    if (__builtin_mul_overflow(value, factor, &value)) return std::numeric_limits<std::int64_t>::max();
  return value;
}

// Walks the sections once, keeping the shape each layer hands to the next.
class Checker {
 public:
  explicit Checker(CfgFile file) { cfg_.file = std::move(file); }

  base::Result<Cfg> run() {
    TESSERA_TRY(check_keys(cfg_.file));
    cfg_.alexey = std::any_of(cfg_.file.sections.begin(), cfg_.file.sections.end(), is_alexey_section);
    walk();
    TESSERA_TRY(all_mistakes(mistakes_));
    return std::move(cfg_);
  }

 private:
  template <typename... Args>
  tl::unexpected<base::Error> fail(int line, fmt::format_string<Args...> format, Args&&... args) const {
    return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: {}", cfg_.file.path, line,
                       fmt::format(format, std::forward<Args>(args)...));
  }

  // Goes on after a mistake as long as the shapes are known.
  void walk() {
    const auto& sections = cfg_.file.sections;
    if (find_section_spec(sections.front().name)->name != "net")
      return note(fail(sections.front().line, "the first section is [{}]; it must be [net]", sections.front().name));
    note(check_net(sections.front()));
    if (now_.outputs == 0) return;
    for (std::size_t i = 1; i < sections.size() && !lost_; ++i) {
      const CfgSection& section = sections[i];
      const std::string type(find_section_spec(section.name)->name);
      if (type == "net")
        note(fail(section.line, "there is a second [net]; a cfg describes one network"));
      else if (type == "distributed")
        note(take_distributed(section));
      else if (type == "gkt")
        note(i + 1 == sections.size() ? base::Status() : fail(section.line, "[gkt] must be the last section"));
      else {
        now_.section = static_cast<int>(i);
        note(check_layer(type, section));
        before_ = i;
      }
    }
    if (lost_) return;
    if (cfg_.layers.empty()) return note(fail(sections.front().line, "the network has no layers; add some after [net]"));
    if (cfg_.distributed.present && cfg_.distributed.first_layer == static_cast<int>(cfg_.layers.size()))
      note(fail(cfg_.distributed.line, "no layer follows [distributed]; put it before the first layer to wrap"));
  }

  void note(base::Status status) {
    if (!status) mistakes_.push_back(status.error().message);
  }

  base::Status check_net(const CfgSection& net) {
    now_ = {"net", net.line, net.integer("channels", 0), net.integer("height", 0), net.integer("width", 0), 0, 0};
    now_.outputs = net.integer("inputs", product({now_.c, now_.h, now_.w}));
    const long batch = net.integer("batch", 1), subdivisions = net.integer("subdivisions", 1);
    rows_ = product({batch / subdivisions, net.integer("time_steps", 1)});
    if (batch % subdivisions != 0)
      return fail(net.line_of("subdivisions"), "batch={} is no multiple of subdivisions={}; Darknet would train on {} images; change one",
                  batch, subdivisions, batch / subdivisions * subdivisions);
    for (const char* key : {"mosaic", "mixup", "cutmix", "blur", "gaussian_noise", "ema_alpha", "label_smooth_eps"})
      if (const CfgOption* option = net.find(key); option && *base::to_real(option->value) != 0)
        cfg_.file.warnings.push_back(
            fmt::format("{}:{}: {}={} is not done here; training goes on without it", cfg_.file.path, option->line, key, option->value));
    TESSERA_TRY(check_count(net.line, "[net]", product({batch, now_.c, now_.h, now_.w}), "values in a batch"));
    TESSERA_TRY(check_count(net.line_of("inputs"), "[net]", product({batch, now_.outputs}), "values in a batch"));
    if (now_.outputs == 0) return fail(net.line, "[net] has no input size; give width, height and channels");
    if (net.integer("amsgrad", 0) && !net.integer("adam", 0))
      return fail(net.line_of("amsgrad"), "amsgrad=1 is a variant of Adam; write adam=1 as well");
    if (net.text("policy", "constant") == "steps") {
      const CfgOption *steps = net.find("steps"), *scales = net.find("scales");
      if (!steps || !scales) return fail(net.line_of("policy"), "policy=steps needs both steps= and scales=");
      const std::vector<std::string> at = base::split(steps->value, ','), by = base::split(scales->value, ',');
      if (at.size() != by.size())
        return fail(scales->line, "scales= has {} numbers and steps= has {}; give one scale per step", by.size(), at.size());
      for (std::size_t i = 1; i < at.size(); ++i)
        if (*base::to_integer(at[i]) <= *base::to_integer(at[i - 1]))
          return fail(steps->line, "steps={} must rise from left to right", steps->value);
    }
    return {};
  }

  base::Status take_distributed(const CfgSection& section) {
    DistributedSection& distributed = cfg_.distributed;
    if (distributed.present) return fail(section.line, "[distributed] stands on line {} already; keep one", distributed.line);
    distributed = {true, static_cast<int>(cfg_.layers.size()), cfg_.file.path, section.line, {}};
    for (const CfgOption& option : section.options) distributed.settings[option.key] = {option.value, option.line};
    return {};
  }

  base::Status check_layer(const std::string& type, const CfgSection& section) {
    LayerShape next = now_;
    next.type = type;
    next.line = section.line;
    lost_ = true;
    static const std::set<std::string> kNeedMap = {"convolutional", "deconvolutional", "local",    "crop",    "reorg",
                                                   "maxpool",       "avgpool",         "upsample", "yolo",    "region",
                                                   "crnn",          "scale_channels",  "sam",      "reorg3d", "Gaussian_yolo"};
    if (kNeedMap.count(type) && (now_.c == 0 || now_.h == 0 || now_.w == 0))
      return fail(section.line, "[{}] (layer {}) needs a map, but what comes before it gives a flat vector of {}", type, cfg_.layers.size(),
                  now_.outputs);
    base::Status fits = shape(type, section, next);
    static const std::set<std::string> kHeads = {"yolo", "region", "detection", "iseg"};
    if (!fits && !kHeads.count(type)) return fits;  // a head that does not fit leaves the shapes as they are
    const std::string label = fmt::format("[{}] (layer {})", type, cfg_.layers.size());
    TESSERA_TRY(check_count(section.line, label, product({rows_, next.outputs}), "outputs in a batch"));
    TESSERA_TRY(check_count(section.line, label, weights_, "weights"));
    TESSERA_TRY(check_count(section.line, label, columns_, "values in its unrolled input"));
    next.unrolled = columns_;
    cfg_.floats += 2 * (product({rows_, next.outputs}) + weights_) + columns_;
    weights_ = columns_ = 0;
    if (next.outputs <= 0 || next.c < 0 || next.h < 0 || next.w < 0)
      return fail(section.line, "[{}] (layer {}) would have no output: its input is only {}x{}x{}; check size, stride and padding", type,
                  cfg_.layers.size(), now_.w, now_.h, now_.c);
    lost_ = false;
    cfg_.layers.push_back(next);
    now_ = next;
    return fits;
  }

  // Upstream counts in int; a product beyond it is a crash there.
  base::Status check_count(int line, const std::string& label, std::int64_t count, const char* what) {
    if (count <= INT_MAX) return {};
    lost_ = true;
    return fail(
        line, "{} would have {} {}, {:.3g} GB of memory, and more than {} cannot be counted; make its numbers, the input or batch= smaller",
        label, count, what, 4e-9 * static_cast<double>(count), INT_MAX);
  }

  static void set_map(LayerShape& next, long c, long h, long w) {
    next.c = c;
    next.h = h;
    next.w = w;
    next.outputs = h <= 0 || w <= 0 ? 0 : product({c, h, w});
  }

  static void set_flat(LayerShape& next, long outputs) {
    next.c = next.h = next.w = 0;
    next.outputs = outputs;
  }

  static long slid(long in, long size, long stride, long both_paddings) {
    return in + both_paddings < size ? 0 : (in + both_paddings - size) / stride + 1;
  }

  base::Status shape(const std::string& type, const CfgSection& s, LayerShape& next) {
    const long size = s.integer("size", 1), stride = s.integer("stride", 1), filters = s.integer("filters", 1);
    const long padding = s.integer("pad", 0) ? size / 2 : s.integer("padding", 0);
    if (type == "convolutional") {
      const long groups = s.integer("groups", 1);
      if (now_.c % groups != 0 || filters % groups != 0)
        return fail(s.line_of("groups"), "groups={} must divide the {} input channels and filters={}", groups, now_.c, filters);
      const long by_x = s.integer("stride_x", stride), by_y = s.integer("stride_y", stride);
      const long apart = size == 1 ? 1 : s.integer("dilation", 1), window = apart * (size - 1) + 1;
      set_map(next, filters, slid(now_.h, window, by_y, 2 * padding * apart), slid(now_.w, window, by_x, 2 * padding * apart));
      weights_ = product({filters, now_.c / groups, size, size});
      columns_ = product({now_.c / groups, size, size, next.h, next.w});
    } else if (type == "deconvolutional") {
      set_map(next, filters, (now_.h - 1) * stride + size - 2 * padding, (now_.w - 1) * stride + size - 2 * padding);
      weights_ = product({filters, now_.c, size, size});
      columns_ = product({filters, size, size, now_.h, now_.w});
    } else if (type == "local") {
      const long lost = s.integer("pad", 0) ? 1 : size;
      set_map(next, filters, (now_.h - lost) / stride + 1, (now_.w - lost) / stride + 1);
      weights_ = product({filters, now_.c, size, size, next.h, next.w});
    } else if (type == "maxpool") {
      const long by_x = s.integer("stride_x", stride), by_y = s.integer("stride_y", stride);
      const long window = s.integer("size", stride), pad = s.integer("padding", window - 1);
      if (pad > 2 * (window - 1) && pad > 0)
        return fail(s.line_of("padding"), "padding={} is so much that windows of size={} would see nothing of the map; at most {} is good",
                    pad, window, 2 * (window - 1));
      if (s.integer("maxpool_depth", 0))
        set_map(next, s.integer("out_channels", 1), now_.h, now_.w);
      else
        set_map(next, now_.c, slid(now_.h, window, by_y, pad), slid(now_.w, window, by_x, pad));
    } else if (type == "avgpool") {
      set_map(next, now_.c, 1, 1);
    } else if (type == "crop") {
      const long height = s.integer("crop_height", 1), width = s.integer("crop_width", 1);
      if (height > now_.h || width > now_.w)
        return fail(s.line, "[crop] takes {}x{} out of a map of only {}x{}; make crop_width= and crop_height= smaller", width, height,
                    now_.w, now_.h);
      set_map(next, now_.c, height, width);
    } else if (type == "normalization") {
      if (s.integer("size", 5) / 2 > now_.c)
        return fail(s.line_of("size"), "size={} reaches over more than the {} channels there are", s.integer("size", 5), now_.c);
    } else if (type == "reorg" || type == "reorg3d") {
      return shape_reorg(s, next);
    } else if (type == "upsample") {
      const long by = s.integer("stride", 2);
      if (by == 0) return fail(s.line_of("stride"), "stride=0 is no good value; 2 doubles the map, -2 halves it");
      by > 0 ? set_map(next, now_.c, product({now_.h, by}), product({now_.w, by})) : set_map(next, now_.c, now_.h / -by, now_.w / -by);
    } else if (type == "route") {
      return shape_route(s, next);
    } else if (type == "shortcut") {
      return shape_shortcut(s);
    } else if (type == "connected") {
      set_map(next, s.integer("output", 1), 1, 1);
      weights_ = product({next.outputs, now_.outputs});
    } else if (type == "rnn" || type == "gru" || type == "lstm") {
      set_flat(next, s.integer("output", 1));
      weights_ = product({next.outputs, std::max(next.outputs, now_.outputs)});
    } else if (type == "crnn") {
      set_map(next, s.integer("output_filters", 1), now_.h, now_.w);
      const long hidden = s.integer("hidden_filters", 1), most = std::max({hidden, now_.c, next.c});
      weights_ = product({hidden, most, 9});
      columns_ = product({most, 9, now_.h, now_.w});
    } else if (type == "dropout" && cfg_.layers.empty()) {
      return fail(s.line, "[dropout] cannot be the first layer");
    } else if (type == "distill") {
      if (&s != &cfg_.file.sections.back()) return fail(s.line, "[distill] must be the last section");
      if (!(s.real("temperature", 1) > 0))
        return fail(s.line_of("temperature"), "temperature={} must be above 0", s.text("temperature", ""));
      if (!(s.real("alpha", 1) >= 0)) return fail(s.line_of("alpha"), "alpha={} must not be negative", s.text("alpha", ""));
    } else if (type == "scale_channels" || type == "sam") {
      return shape_product(type, s, next);
    } else if (type == "yolo" || type == "Gaussian_yolo") {
      return check_yolo(s);
    } else if (type == "region") {
      return check_region(s);
    } else if (type == "detection") {
      return check_detection(s);
    } else if (type == "iseg") {
      return expect_inputs(s, now_.w * now_.h * (s.integer("classes", 20) + s.integer("ids", 32)), "classes + ids channels");
    }
    return {};
  }

  base::Status shape_reorg(const CfgSection& s, LayerShape& next) const {
    const long stride = s.integer("stride", 1);
    const bool reverse = s.integer("reverse", 0) != 0, copies = s.integer("extra", 0) != 0 || s.integer("flatten", 0) != 0;
    const std::int64_t cells = product({stride, stride});
    // Upstream takes the channels apart in stride x stride groups in both directions.
    if (!copies && (now_.c % cells != 0 || (!reverse && (now_.h % stride != 0 || now_.w % stride != 0))))
      return fail(s.line_of("stride"),
                  "stride={} does not fit: {}x{} (stride x stride) must divide the {} channels, and stride the map of {}x{}", stride,
                  stride, stride, now_.c, now_.w, now_.h);
    if (reverse)
      set_map(next, now_.c / cells, product({now_.h, stride}), product({now_.w, stride}));
    else
      set_map(next, product({now_.c, cells}), now_.h / stride, now_.w / stride);
    if (s.integer("extra", 0)) set_flat(next, now_.outputs + s.integer("extra", 0));
    return {};
  }

  base::Result<const LayerShape*> source(const CfgSection& s, std::string_view key, long index) const {
    const long here = static_cast<long>(cfg_.layers.size());
    const long absolute = index < 0 ? here + index : index;
    if (absolute < 0 || absolute >= here)
      return fail(s.line_of(key), "{}={} points to layer {}, but only layers 0 to {} come before this one (layer {})", key, index, absolute,
                  here - 1, here);
    return &cfg_.layers[static_cast<std::size_t>(absolute)];
  }

  base::Status shape_route(const CfgSection& s, LayerShape& next) {
    const CfgOption* layers = s.find("layers");
    if (!layers) return fail(s.line, "[route] needs layers=");
    long channels = 0, outputs = 0;
    const LayerShape* first = nullptr;
    for (const std::string& part : base::split(layers->value, ',')) {
      TESSERA_ASSIGN(const LayerShape* from, source(s, "layers", *base::to_integer(part)));
      if (!first) first = from;
      if (from->h != first->h || from->w != first->w)
        return fail(layers->line, "layers={} joins maps of {}x{} and {}x{}; they must have the same size", layers->value, first->w,
                    first->h, from->w, from->h);
      channels += from->c;
      outputs += from->outputs;
    }
    const long groups = s.integer("groups", 1), group = s.integer("group_id", 0);
    if (groups > 1) {
      if (group >= groups)
        return fail(s.line_of("group_id"), "group_id={} names a group, but groups={} allows 0 to {}", group, groups, groups - 1);
      for (const std::string& part : base::split(layers->value, ',')) {
        TESSERA_ASSIGN(const LayerShape* from, source(s, "layers", *base::to_integer(part)));
        if (from->c % groups != 0)
          return fail(s.line_of("groups"), "groups={} must divide the {} channels of layer {}", groups, from->c, part);
      }
      channels /= groups, outputs /= groups;
    }
    next.c = channels;
    next.h = first->h;
    next.w = first->w;
    next.outputs = outputs;
    return {};
  }

  // [scale_channels], [sam]: the layer before times another one.
  base::Status shape_product(const std::string& type, const CfgSection& s, LayerShape& next) const {
    const CfgOption* from = s.find("from");
    if (!from) return fail(s.line, "[{}] needs from=", type);
    TESSERA_ASSIGN(const LayerShape* other, source(s, "from", *base::to_integer(from->value)));
    const bool over_map = s.integer("scale_wh", 0);
    const bool fits = type == "sam" ? now_.c == other->c && now_.h == other->h && now_.w == other->w
                      : over_map    ? now_.c == 1 && now_.h == other->h && now_.w == other->w
                                    : now_.c == other->c && now_.h == 1 && now_.w == 1;
    if (!fits)
      return fail(from->line, "from={} is {}x{}x{}, which [{}] cannot multiply with the {}x{}x{} before it", from->value, other->w,
                  other->h, other->c, type, now_.w, now_.h, now_.c);
    if (is_alexey_activation(s.text("activation", "linear")))
      return fail(s.line_of("activation"), "activation={} cannot follow a product; use linear, logistic, leaky or relu",
                  s.text("activation", ""));
    set_map(next, other->c, other->h, other->w);
    return {};
  }

  base::Status shape_shortcut(const CfgSection& s) const {
    const CfgOption* from = s.find("from");
    if (!from) return fail(s.line, "[shortcut] needs from=");
    const std::string weights = s.text("weights_type", "none"), normalization = s.text("weights_normalization", "none");
    const bool weighted = weights == "per_feature" || weights == "per_layer" || weights == "per_channel";
    if (!weighted && weights != "none")
      return fail(s.line_of("weights_type"), "weights_type={} is no good value; it must be per_feature, per_channel or none", weights);
    if (weighted && normalization != "relu" && normalization != "softmax")
      return fail(s.line_of("weights_normalization"), "weights_normalization={} is no good value; it must be relu or softmax",
                  normalization);
    const std::vector<std::string> parts = base::split(from->value, ',');
    for (const std::string& part : parts) {
      TESSERA_ASSIGN(const LayerShape* other, source(s, "from", *base::to_integer(part)));
      if ((parts.size() > 1 || weighted) && (other->w != now_.w || other->h != now_.h || (weighted && other->c != now_.c)))
        return fail(from->line, "from={} adds a map of {}x{}x{} to one of {}x{}x{}; they must have the same size", part, other->w, other->h,
                    other->c, now_.w, now_.h, now_.c);
    }
    if (parts.size() > 1) return {};
    TESSERA_ASSIGN(const LayerShape* other, source(s, "from", *base::to_integer(from->value)));
    const bool ok = other->w > 0 && now_.w > 0 &&
                    (other->w >= now_.w ? other->w / now_.w == other->h / now_.h : now_.w / other->w == now_.h / other->h);
    if (!ok)
      return fail(from->line,
                  "from={} adds a map of {}x{} to one of {}x{}; one side must be the same multiple of the other in "
                  "both directions",
                  from->value, other->w, other->h, now_.w, now_.h);
    return {};
  }

  base::Status take_classes(const CfgSection& s, long classes) {
    if (cfg_.classes && cfg_.classes != classes)
      return fail(s.line_of("classes"), "classes={} differs from classes={} on line {}; all heads must have the same", classes,
                  cfg_.classes, cfg_.classes_line);
    cfg_.classes = static_cast<int>(classes);
    cfg_.classes_line = s.line_of("classes");
    return {};
  }

  base::Status check_boxes(const CfgSection& s, long most) const {
    const CfgOption* max = s.find("max");
    if (max && *base::to_integer(max->value) > most)
      return fail(max->line, "max={} is more than the {} boxes per image [{}] can hold; write max={}", max->value, most, s.name, most);
    return {};
  }

  base::Status check_anchors(const CfgSection& s, long num) const {
    const CfgOption* anchors = s.find("anchors");
    if (!anchors) return {};
    const std::size_t count = base::split(anchors->value, ',').size();
    if (count != static_cast<std::size_t>(2 * num))
      return fail(anchors->line, "anchors= has {} numbers, but num={} needs {} (a width and a height each); change one", count, num,
                  2 * num);
    for (const std::string& value : base::split(anchors->value, ','))
      if (!(*base::to_real(value) > 0)) return fail(anchors->line, "anchors= contains {}; every anchor must be larger than 0", value);
    return {};
  }

  // `from` is the section whose filters= decide how many channels arrive here.
  base::Status expect_channels(const CfgSection& s, long wanted, const std::string& why) const {
    if (now_.c == wanted) return {};
    const CfgSection& from = cfg_.file.sections[before_];
    if (now_.type == "convolutional")
      return fail(from.line_of("filters"), "filters={} does not fit [{}] on line {}: {}, so filters must be {}", now_.c, s.name, s.line,
                  why, wanted);
    return fail(s.line, "[{}] gets {} channels, but {}, so it needs {}", s.name, now_.c, why, wanted);
  }

  base::Status expect_inputs(const CfgSection& s, long wanted, const std::string& why) const {
    if (now_.outputs == wanted) return {};
    return fail(s.line, "[{}] gets {} values, but needs {} ({}); change the layer before it", s.name, now_.outputs, wanted, why);
  }

  base::Status check_yolo(const CfgSection& s) {
    const long classes = s.integer("classes", 20), num = s.integer("num", 1);
    long masks = num;
    if (const CfgOption* mask = s.find("mask")) {
      const std::vector<std::string> parts = base::split(mask->value, ',');
      masks = static_cast<long>(parts.size());
      for (const std::string& part : parts)
        if (*base::to_integer(part) < 0 || *base::to_integer(part) >= num)
          return fail(mask->line, "mask={} names anchor {}, but num={} allows 0 to {}", mask->value, part, num, num - 1);
    }
    note(take_classes(s, classes));
    note(check_anchors(s, num));
    if (const CfgOption* counters = s.find("counters_per_class");
        counters && static_cast<long>(base::split(counters->value, ',').size()) != classes)
      return fail(counters->line, "counters_per_class= has {} numbers, but classes={}", base::split(counters->value, ',').size(), classes);
    if (s.name == "Gaussian_yolo")
      return expect_channels(s, masks * (classes + 9),
                             fmt::format("mask has {} anchors and classes={} (9 numbers and the classes each)", masks, classes));
    note(check_boxes(s, kMostBoxes));
    return expect_channels(s, masks * (classes + 5), fmt::format("mask has {} anchors and classes={}", masks, classes));
  }

  base::Status check_region(const CfgSection& s) {
    const long classes = s.integer("classes", 20), num = s.integer("num", 1), coords = s.integer("coords", 4);
    note(take_classes(s, classes));
    note(check_anchors(s, num));
    note(check_boxes(s, kRegionBoxes));
    return expect_channels(s, num * (classes + coords + 1), fmt::format("num={}, classes={} and coords={}", num, classes, coords));
  }

  base::Status check_detection(const CfgSection& s) {
    const long classes = s.integer("classes", 1), num = s.integer("num", 1), coords = s.integer("coords", 1), side = s.integer("side", 7);
    TESSERA_TRY(take_classes(s, classes));
    return expect_inputs(s, side * side * ((1 + coords) * num + classes), "side * side * ((1 + coords) * num + classes)");
  }

  Cfg cfg_;
  LayerShape now_;
  std::int64_t rows_ = 1;                   // of upstream's batch
  std::int64_t weights_ = 0, columns_ = 0;  // of the layer at hand
  std::size_t before_ = 0;                  // section index of the latest layer
  bool lost_ = false;                       // the shape of what follows is not known
  std::vector<std::string> mistakes_;
};

}  // namespace

base::Result<Cfg> check_cfg(CfgFile file) { return Checker(std::move(file)).run(); }

}  // namespace tessera::cfg
