// Upstream's own training code, on this machine alone.
#pragma once

#include "darknet/training/engine.hpp"

namespace tessera::darknet {

std::unique_ptr<Engine> make_stock_engine();

}  // namespace tessera::darknet
