// Where this program keeps what it has measured about the machine.
#pragma once

#include <string>

namespace tessera::darknet {

// The file of measured backends (kernels/convolution_select.hpp): tessera/backends.json in $XDG_CACHE_HOME or
// ~/.cache; "" when neither is known.
std::string backend_cache_file();

}  // namespace tessera::darknet
