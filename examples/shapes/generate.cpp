// Generates a labelled detection set: stickers of six shapes, tilted, shaded, partly hidden, over crops of
// photographs. Files are laid out as Darknet expects them:
//
//   OUT/images/{train,valid}_NNNN.jpg   OUT/labels/{train,valid}_NNNN.txt   ("class cx cy w h" in [0,1])
//   OUT/train.txt  OUT/valid.txt  OUT/obj.names  OUT/obj.data
//
// Every random decision is drawn from one std::mt19937_64 through the mappings of class Random, because the
// standard's distributions give different numbers on different platforms; where one statement draws several
// numbers it is in braces, which fix the order. Versions of OpenCV and libjpeg may still round pixels differently.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numbers>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace {

namespace fs = std::filesystem;
using tessera::base::ErrorCode;
using tessera::base::Result;
using tessera::base::Status;

constexpr std::array kClassNames = {"circle", "square", "triangle", "star", "cross", "ring"};
constexpr double kMinVisible = 0.6;  // of an object's pixels, after everything drawn over it
constexpr double kPi = std::numbers::pi;
constexpr double kMaxTilt = kPi / 6;  // of a shape to either side

struct Options {
  std::string photos;
  std::string out;
  int train = 600;
  int valid = 150;
  int size = 320;
  std::uint64_t seed = 1;
};

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t bits() { return engine_(); }
  // In [0, 1), on a grid of 2^-53.
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double between(double low, double high) { return low + (high - low) * unit(); }
  // In [low, high]; the bias of the multiplication is below 2^-50 for the small ranges used here.
  int integer(int low, int high) { return low + static_cast<int>(unit() * (high - low + 1)); }
  bool chance(double probability) { return unit() < probability; }

 private:
  std::mt19937_64 engine_;
};

// A closed outline in pixels, with an optional hole (rings).
struct Outline {
  std::vector<cv::Point2d> border;
  std::vector<cv::Point2d> hole;
};

struct Object {
  int kind = 0;
  Outline outline;
  cv::Rect2d box;     // of the whole outline, clipped to the picture
  double pixels = 0;  // inside the picture, before anything covers it
};

// The first corner points in direction `first` (radians; y grows downwards).
std::vector<cv::Point2d> regular_polygon(int corners, double radius, double first = 0) {
  std::vector<cv::Point2d> points;
  for (int i = 0; i < corners; ++i) {
    const double angle = first + 2 * kPi * i / corners;
    points.emplace_back(radius * std::cos(angle), radius * std::sin(angle));
  }
  return points;
}

std::vector<cv::Point2d> star_polygon(double inner_radius) {
  std::vector<cv::Point2d> points;
  for (int i = 0; i < 10; ++i) {
    const double radius = i % 2 == 0 ? 1.0 : inner_radius;
    const double angle = kPi * i / 5 - kPi / 2;
    points.emplace_back(radius * std::cos(angle), radius * std::sin(angle));
  }
  return points;
}

std::vector<cv::Point2d> cross_polygon(double arm) {
  return {{arm, arm},   {1, arm},   {1, -arm}, {arm, -arm}, {arm, -1}, {-arm, -1},
          {-arm, -arm}, {-1, -arm}, {-1, arm}, {-arm, arm}, {-arm, 1}, {arm, 1}};
}

// The shape of class `kind` standing upright around the origin, about one unit in radius.
Outline unit_outline(int kind, Random& random) {
  switch (kind) {
    case 0:
      return {regular_polygon(72, 1.0), {}};
    case 1:
      return {regular_polygon(4, 1.2, kPi / 4), {}};
    case 2:
      return {regular_polygon(3, 1.15, -kPi / 2), {}};
    case 3:
      return {star_polygon(random.between(0.38, 0.48)), {}};
    case 4:
      return {cross_polygon(random.between(0.26, 0.36)), {}};
    default:
      return {regular_polygon(72, 1.0), regular_polygon(72, random.between(0.5, 0.68))};
  }
}

void place(std::vector<cv::Point2d>& points, cv::Point2d centre, double radius, double stretch, double angle) {
  for (cv::Point2d& point : points) {
    const double x = point.x * radius * stretch;
    const double y = point.y * radius / stretch;
    point = {centre.x + x * std::cos(angle) - y * std::sin(angle), centre.y + x * std::sin(angle) + y * std::cos(angle)};
  }
}

std::vector<cv::Point> fixed_point(const std::vector<cv::Point2d>& points, int fraction_bits) {
  std::vector<cv::Point> result;
  for (const cv::Point2d& point : points)
    result.emplace_back(static_cast<int>(std::lround(std::ldexp(point.x, fraction_bits))),
                        static_cast<int>(std::lround(std::ldexp(point.y, fraction_bits))));
  return result;
}

// Coverage of every pixel, 0..255, with smooth edges.
cv::Mat coverage(const Outline& outline, int size) {
  constexpr int kFractionBits = 4;
  std::vector<std::vector<cv::Point>> contours{fixed_point(outline.border, kFractionBits)};
  if (!outline.hole.empty()) contours.push_back(fixed_point(outline.hole, kFractionBits));
  cv::Mat mask = cv::Mat::zeros(size, size, CV_8UC1);
  cv::fillPoly(mask, contours, cv::Scalar(255), cv::LINE_AA, kFractionBits);
  return mask;
}

cv::Rect2d bounding_box(const Outline& outline, int size) {
  double left = size, top = size, right = 0, bottom = 0;
  for (const cv::Point2d& point : outline.border) {
    left = std::min(left, point.x);
    right = std::max(right, point.x);
    top = std::min(top, point.y);
    bottom = std::max(bottom, point.y);
  }
  left = std::max(left, 0.0);
  top = std::max(top, 0.0);
  right = std::min<double>(right, size);
  bottom = std::min<double>(bottom, size);
  return {left, top, right - left, bottom - top};
}

// A colour of any hue as OpenCV wants it (blue, green, red); saturation and value as in HSV, within [0, 1].
cv::Vec3f random_colour(double least_saturation, double most_saturation, double least_value, Random& random) {
  const double sector = 6 * random.unit();
  const double saturation = random.between(least_saturation, most_saturation);
  const double value = random.between(least_value, 1.0);
  cv::Vec3f result;
  for (int channel = 0; channel < 3; ++channel) {
    const double distance = std::fabs(std::fmod(sector + 2.0 * channel + 1, 6.0) - 3);
    const double share = std::clamp(distance - 1, 0.0, 1.0);
    result[channel] = static_cast<float>(255 * value * (1 - saturation * (1 - share)));
  }
  return result;
}

// A crop of a random photograph, mirrored, dimmed or brightened at random.
cv::Mat background(const std::vector<cv::Mat>& photos, int size, Random& random) {
  const cv::Mat& photo = photos[static_cast<std::size_t>(random.integer(0, static_cast<int>(photos.size()) - 1))];
  const int shorter = std::min(photo.cols, photo.rows);
  const int side = std::max(1, static_cast<int>(shorter * random.between(0.35, 1.0)));
  const cv::Rect window{random.integer(0, photo.cols - side), random.integer(0, photo.rows - side), side, side};
  cv::Mat picture;
  cv::resize(photo(window), picture, {size, size}, 0, 0, side > size ? cv::INTER_AREA : cv::INTER_LINEAR);
  if (random.chance(0.5)) cv::flip(picture, picture, 1);
  const double contrast = random.between(0.6, 1.1);
  picture.convertTo(picture, CV_32FC3, contrast, random.between(-15, 25));
  return picture;
}

// How the surface of a sticker looks: one colour lit from one side, and a pale rim where it was cut out.
struct Surface {
  cv::Vec3f colour;
  cv::Vec3f rim_colour;
  double rim = 0;  // width in pixels
  double light_angle = 0;
  double light = 0;  // relative change of brightness from the centre to the rim
};

Surface random_surface(double radius, Random& random) {
  Surface surface;
  surface.colour = random_colour(0.3, 1.0, 0.35, random);
  surface.rim_colour = random_colour(0.0, 0.2, 0.85, random);
  surface.rim = std::max(1.5, radius * random.between(0.07, 0.13));
  surface.light_angle = random.between(0, 2 * kPi);
  surface.light = random.between(0.05, 0.45);
  return surface;
}

void paint(cv::Mat& picture, const cv::Mat& mask, const Surface& surface, cv::Point2d centre, double radius) {
  const double light_x = std::cos(surface.light_angle), light_y = std::sin(surface.light_angle);
  cv::Mat depth;  // of each covered pixel below the outline
  cv::distanceTransform(mask, depth, cv::DIST_L2, cv::DIST_MASK_5);
  for (int y = 0; y < picture.rows; ++y) {
    for (int x = 0; x < picture.cols; ++x) {
      const std::uint8_t covered = mask.at<std::uint8_t>(y, x);
      if (covered == 0) continue;
      const double side = ((x - centre.x) * light_x + (y - centre.y) * light_y) / radius;
      const float brightness = static_cast<float>(1 + surface.light * side);
      const float weight = static_cast<float>(covered) / 255;
      const cv::Vec3f own = depth.at<float>(y, x) <= surface.rim ? surface.rim_colour : surface.colour;
      cv::Vec3f& pixel = picture.at<cv::Vec3f>(y, x);
      pixel = pixel * (1 - weight) + own * (brightness * weight);
    }
  }
}

// Darkens what lies under the object, a little to one side.
void cast_shadow(cv::Mat& picture, const Outline& outline, double radius, Random& random) {
  Outline moved = outline;
  const cv::Point2d offset{radius * random.between(-0.2, 0.2), radius * random.between(0.02, 0.25)};
  for (auto* points : {&moved.border, &moved.hole})
    for (cv::Point2d& point : *points) point += offset;
  cv::Mat shadow = coverage(moved, picture.rows);
  cv::GaussianBlur(shadow, shadow, {0, 0}, std::max(1.0, radius * 0.1));
  const float strength = static_cast<float>(random.between(0.2, 0.6) / 255);
  for (int y = 0; y < picture.rows; ++y)
    for (int x = 0; x < picture.cols; ++x) picture.at<cv::Vec3f>(y, x) *= 1 - strength * static_cast<float>(shadow.at<std::uint8_t>(y, x));
}

// The scene while it is being built: the picture, and which object each pixel shows (-1: none).
struct Scene {
  cv::Mat picture;
  cv::Mat owner;
  std::vector<Object> objects;
};

// Whether every object stays recognisable when `mask` is drawn over the scene.
bool leaves_objects_visible(const Scene& scene, const cv::Mat& mask) {
  std::vector<double> visible(scene.objects.size(), 0.0);
  for (int y = 0; y < mask.rows; ++y)
    for (int x = 0; x < mask.cols; ++x) {
      const int owner = scene.owner.at<int>(y, x);
      if (owner >= 0 && mask.at<std::uint8_t>(y, x) < 128) visible[static_cast<std::size_t>(owner)] += 1;
    }
  for (std::size_t i = 0; i < visible.size(); ++i)
    if (visible[i] < kMinVisible * scene.objects[i].pixels) return false;
  return true;
}

void claim_pixels(Scene& scene, const cv::Mat& mask, int owner) { scene.owner.setTo(owner, mask >= 128); }

bool overlaps_too_much(const Scene& scene, const cv::Rect2d& box) {
  return std::any_of(scene.objects.begin(), scene.objects.end(),
                     [&](const Object& other) { return (other.box & box).area() > 0.35 * std::min(other.box.area(), box.area()); });
}

// Draws one object if a fitting place is found in a few attempts.
void add_object(Scene& scene, Random& random) {
  const int size = scene.picture.rows;
  const int kind = random.integer(0, static_cast<int>(kClassNames.size()) - 1);
  for (int attempt = 0; attempt < 12; ++attempt) {
    // Uniform in the logarithm: small objects are as frequent as large ones.
    const double radius = size * 0.085 * std::pow(2.6, random.unit());
    const cv::Point2d centre{random.between(0.06, 0.94) * size, random.between(0.06, 0.94) * size};
    Object object{kind, unit_outline(kind, random), {}, 0};
    const double stretch = random.between(0.88, 1.14);
    const double angle = random.between(-kMaxTilt, kMaxTilt);
    place(object.outline.border, centre, radius, stretch, angle);
    place(object.outline.hole, centre, radius, stretch, angle);
    object.box = bounding_box(object.outline, size);
    const double full = cv::contourArea(fixed_point(object.outline.border, 4)) / 256 -
                        (object.outline.hole.empty() ? 0 : cv::contourArea(fixed_point(object.outline.hole, 4)) / 256);
    const cv::Mat mask = coverage(object.outline, size);
    object.pixels = cv::countNonZero(mask >= 128);
    if (object.pixels < 0.7 * full || overlaps_too_much(scene, object.box) || !leaves_objects_visible(scene, mask)) continue;
    if (random.chance(0.6)) cast_shadow(scene.picture, object.outline, radius, random);
    paint(scene.picture, mask, random_surface(radius, random), centre, radius);
    claim_pixels(scene, mask, static_cast<int>(scene.objects.size()));
    scene.objects.push_back(std::move(object));
    return;
  }
}

// Draws an unlabelled bar across the scene, so that objects are also hidden by things that are not objects.
void add_bar(Scene& scene, Random& random) {
  const int size = scene.picture.rows;
  const cv::Point2d centre{random.unit() * size, random.unit() * size};
  const double length = size * random.between(0.3, 1.0);
  const double width = size * random.between(0.01, 0.035);
  Outline outline{{{-length, -width}, {length, -width}, {length, width}, {-length, width}}, {}};
  place(outline.border, centre, 1.0, 1.0, random.between(0, kPi));
  const cv::Mat mask = coverage(outline, size);
  if (!leaves_objects_visible(scene, mask)) return;
  Surface surface = random_surface(length, random);
  surface.rim = 0;
  paint(scene.picture, mask, surface, centre, length);
  claim_pixels(scene, mask, -1);
}

// What a camera does: a little blur, a little sensor noise.
cv::Mat photograph(cv::Mat picture, Random& random) {
  if (random.chance(0.4)) cv::GaussianBlur(picture, picture, {0, 0}, random.between(0.4, 1.1));
  const double noise = random.between(0, 9);
  for (int y = 0; y < picture.rows; ++y) {
    float* row = picture.ptr<float>(y);
    for (int x = 0; x < picture.cols * 3; x += 3) {
      // Six 8-bit numbers make three sums of two: triangular noise in [-1, 1].
      std::uint64_t bits = random.bits();
      for (int channel = 0; channel < 3; ++channel, bits >>= 16) {
        const double sum = static_cast<double>(bits & 255) + static_cast<double>((bits >> 8) & 255);
        row[x + channel] += static_cast<float>(noise * (sum / 255 - 1));
      }
    }
  }
  cv::Mat result;
  picture.convertTo(result, CV_8UC3);
  return result;
}

Scene random_scene(const std::vector<cv::Mat>& photos, int size, Random& random) {
  Scene scene{background(photos, size, random), cv::Mat(size, size, CV_32SC1, cv::Scalar(-1)), {}};
  const int wanted = random.integer(2, 8);
  while (scene.objects.empty()) add_object(scene, random);
  for (int i = 1; i < wanted; ++i) add_object(scene, random);
  const int bars = random.integer(0, 2);
  for (int i = 0; i < bars; ++i) add_bar(scene, random);
  scene.picture = photograph(scene.picture, random);
  return scene;
}

std::string label_lines(const Scene& scene) {
  const double size = scene.picture.rows;
  std::string lines;
  for (const Object& object : scene.objects) {
    const cv::Rect2d& box = object.box;
    lines += fmt::format("{} {:.6f} {:.6f} {:.6f} {:.6f}\n", object.kind, (box.x + box.width / 2) / size, (box.y + box.height / 2) / size,
                         box.width / size, box.height / size);
  }
  return lines;
}

Status write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return tessera::base::error(ErrorCode::kIo, "cannot write {}; is the disk full or the folder read-only?", path.string());
  return {};
}

Result<std::vector<cv::Mat>> read_photos(const fs::path& folder) {
  std::error_code failure;
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, failure))
    if (entry.path().extension() == ".jpg") paths.push_back(entry.path());
  if (failure) return tessera::base::error(ErrorCode::kNotFound, "cannot read folder {}: {}", folder.string(), failure.message());
  if (paths.empty())
    return tessera::base::error(ErrorCode::kNotFound, "no .jpg photograph in {}; give the data folder of Darknet's source",
                                folder.string());
  std::sort(paths.begin(), paths.end());  // a folder lists its files in any order
  std::vector<cv::Mat> photos;
  for (const fs::path& path : paths) {
    cv::Mat photo = cv::imread(path.string(), cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);
    if (photo.empty()) return tessera::base::error(ErrorCode::kIo, "cannot decode {} as an image", path.string());
    photos.push_back(std::move(photo));
  }
  return photos;
}

// Writes `count` pictures named after `part` and the list of their paths.
Status write_part(const Options& options, const std::vector<cv::Mat>& photos, const std::string& part, int count, Random& random) {
  const fs::path out(options.out);
  std::string list;
  for (int i = 0; i < count; ++i) {
    const Scene scene = random_scene(photos, options.size, random);
    const std::string name = fmt::format("{}_{:04}", part, i);
    const fs::path image = out / "images" / (name + ".jpg");
    if (!cv::imwrite(image.string(), scene.picture, {cv::IMWRITE_JPEG_QUALITY, 92}))
      return tessera::base::error(ErrorCode::kIo, "cannot write {}; is the disk full or the folder read-only?", image.string());
    TESSERA_TRY(write_text(out / "labels" / (name + ".txt"), label_lines(scene)));
    list += image.string() + "\n";
  }
  return write_text(out / (part + ".txt"), list);
}

Status generate(const Options& options) {
  TESSERA_ASSIGN(const std::vector<cv::Mat> photos, read_photos(options.photos));
  const fs::path out(options.out);
  for (const char* folder : {"images", "labels", "backup"}) {
    std::error_code failure;
    fs::create_directories(out / folder, failure);
    if (failure) return tessera::base::error(ErrorCode::kIo, "cannot create folder {}: {}", (out / folder).string(), failure.message());
  }
  Random random(options.seed);
  TESSERA_TRY(write_part(options, photos, "train", options.train, random));
  TESSERA_TRY(write_part(options, photos, "valid", options.valid, random));
  std::string names;
  for (const char* name : kClassNames) names += std::string(name) + "\n";
  TESSERA_TRY(write_text(out / "obj.names", names));
  return write_text(out / "obj.data", fmt::format("classes = {}\ntrain = {}\nvalid = {}\nnames = {}\nbackup = {}\n", kClassNames.size(),
                                                  (out / "train.txt").string(), (out / "valid.txt").string(), (out / "obj.names").string(),
                                                  (out / "backup").string()));
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Generates a labelled detection set of shapes pasted over photographs, in Darknet's layout."};
  app.add_option("--photos", options.photos, "folder with .jpg photographs (Darknet's data folder)")->required();
  app.add_option("--out", options.out, "folder to write to")->required();
  app.add_option("--train", options.train, "number of training pictures")->check(CLI::Range(1, 9999))->capture_default_str();
  app.add_option("--valid", options.valid, "number of validation pictures")->check(CLI::Range(1, 9999))->capture_default_str();
  app.add_option("--size", options.size, "width and height of a picture in pixels")->check(CLI::Range(64, 2048))->capture_default_str();
  app.add_option("--seed", options.seed, "the same seed gives the same set")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    const Status status = generate(options);
    if (!status) {
      fmt::print(stderr, "generate: {}\n", status.error().message);
      return 1;
    }
  } catch (const cv::Exception& failure) {  // out of memory, mostly
    fmt::print(stderr, "generate: {}\n", failure.err);
    return 1;
  }
  fmt::print("{} training and {} validation pictures of {} classes in {}\n", options.train, options.valid, kClassNames.size(), options.out);
  return 0;
}
