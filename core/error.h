// Errors that Tessera throws. Users' mistakes (ConfigError), failing peers (CommError) and damaged or unwritable
// checkpoints (CheckpointError) are told apart from our own bugs (TESSERA_CHECK). Nothing in the libraries aborts or
// exits: launch/main.cpp prints the message once and ends the job with a non-zero status.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace tessera {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The user can mend it: recipe, command line, data, model folder. The message says where, what, and what to set.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A peer is dead, stopped or out of step.
class CommError : public Error {
 public:
  using Error::Error;
};

/// A checkpoint is damaged, incomplete or cannot be written.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

/// A broken invariant of our own code.
class InternalError : public Error {
 public:
  using Error::Error;
};

namespace detail {
template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);
}  // namespace detail

}  // namespace tessera

/// Throws InternalError unless `condition` holds; further arguments are streamed into the message.
#define TESSERA_CHECK(condition, ...)                                                       \
  do {                                                                                      \
    if (!(condition)) [[unlikely]]                                                          \
      ::tessera::detail::check_failed(__FILE__, __LINE__, #condition,                       \
                                      ::tessera::detail::concat("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)
