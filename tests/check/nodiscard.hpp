// Read by clang-tidy before every file (`make check`): a result that nobody looks at is an error.
#pragma once

namespace tl {
template <class T, class E>
class [[nodiscard]] expected;
}
