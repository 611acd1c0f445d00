#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string_view>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/unique_fd.hpp>

/// Files that lie in memory, which processes of one machine share. Any thread.
namespace troupe {

/// One of `size` bytes, all zero, whose size nobody can change: else its owner could take away pages that
/// another process reads. `name`: what others know it by, see open_descriptor_of(). kResourceExhausted,
/// kInternal: what the system said.
Result<UniqueFd> make_memfd(const char* name, std::size_t size);
/// Nobody can seal it any more.
bool close_seals(int memfd);
/// Nobody gets another mapping of it that can be written, however it is opened, and nobody can seal it any
/// more; mappings that are there stay. False: the kernel (before 5.1) does not know how.
bool close_to_writers(int memfd);

/// The descriptor `fd` of the process `owner`, opened anew through /proc with `flags` if what stands there
/// begins with `link`: looked at first, because opening can have effects of its own. kUnimplemented: it is
/// another user's; kUnavailable: it is not there, or something else.
Result<UniqueFd> open_descriptor_of(pid_t owner, int fd, std::string_view link, int flags);
/// The size of another's memfd, which nobody can change; kUnavailable: it may be changed.
Result<std::size_t> sealed_size(int memfd);

}  // namespace troupe
