#include "core/error.h"

namespace tessera::detail {

void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  throw InternalError(concat("internal error at ", file, ":", line, ": ", condition, message.empty() ? "" : ": ",
                             message, " (this is a bug in Tessera, please report it)"));
}

}  // namespace tessera::detail
