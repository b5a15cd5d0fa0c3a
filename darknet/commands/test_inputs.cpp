#include "darknet/commands/test_inputs.hpp"

#include <unistd.h>

#include <iostream>
#include <iterator>

#include "base/text.hpp"

namespace tessera::darknet {

base::Status require_detector(const LoadedNetwork& loaded) {
  if (loaded.cfg.classes == 0)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has no [yolo], [region] or [detection] layer; use `darknet classifier`",
                       loaded.cfg.file.path);
  if (loaded.net->c != 3)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: channels={}, but pictures have 3; write channels=3 in [net]",
                       loaded.cfg.file.path, loaded.net->c);
  return {};
}

base::Result<DetectorUnderTest> load_detector_for_test(const Arguments& arguments) {
  DetectorUnderTest test;
  TESSERA_ASSIGN(test.data_file, cfg::read_data_file(arguments.operand(0)));
  TESSERA_ASSIGN(test.loaded, load_network_for_test(arguments.operand(1), arguments.operand(2), arguments));
  TESSERA_TRY(require_detector(test.loaded));
  const cfg::Cfg& cfg = test.loaded.cfg;
  if (test.data_file.classes && test.data_file.classes != cfg.classes)
    return base::error(base::ErrorCode::kInvalidArgument, "{}:{}: classes={}, but {} says classes={}; make them equal", cfg.file.path,
                       cfg.classes_line, cfg.classes, test.data_file.where("classes"), test.data_file.classes);
  TESSERA_ASSIGN(test.names, cfg::read_names(test.data_file, cfg.classes));
  return test;
}

base::Result<std::vector<std::string>> images_to_test(const std::string& image, const Arguments& arguments) {
  if (!image.empty()) return std::vector<std::string>{base::local_path(image)};
  if (::isatty(STDIN_FILENO))
    return base::error(base::ErrorCode::kInvalidArgument,
                       "no image is given; name one after the weights, or list images on stdin: `darknet {} ... < list.txt`",
                       arguments.positional.front());
  std::vector<std::string> images;
  for (const std::string& line : base::lines_of(base::decoded_text(std::string{std::istreambuf_iterator<char>(std::cin), {}})))
    if (!line.empty()) images.push_back(base::local_path(line));
  if (images.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "no image is given; name one after the weights, or list images on stdin");
  return images;
}

}  // namespace tessera::darknet
