// How many pictures of each class every edge has, as a table and a picture.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace tessera::observe {

using ClassCounts = std::vector<std::vector<std::size_t>>;  // [edge][class]

std::string class_table(const ClassCounts& counts, const std::vector<std::string>& labels);

// A bar for each edge, a colour for each class, as PNG.
[[nodiscard]] base::Status write_class_chart(const ClassCounts& counts, const std::vector<std::string>& labels, const std::string& title,
                                             const std::string& path);

}  // namespace tessera::observe
