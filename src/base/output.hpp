// Standard output and error that cannot end a program.
#pragma once

namespace tessera::base {

// From here on writing to stdout and stderr always succeeds: where a closed pipe or a full disk does not take it, the text is lost,
// and stderr is told once of what stdout loses. SIGPIPE is ignored. Call it first in main().
void keep_output_from_failing();

}  // namespace tessera::base
