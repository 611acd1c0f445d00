#pragma once

#include <string>

#include "troupe/tools/job.hpp"

/// Where the processes of a job meet: an address for the registry, a folder for their files.
namespace troupe::tools {

/// Chooses what {registry} stands for.
/// - "" gives "";
/// - "tcp": `127.0.0.1:PORT` with a port that is free now. Nothing holds it until the registry binds
///   it, so start the registry first;
/// - "unix": the path of a socket, yet to be made, in a fresh folder of the temporary directory;
/// - `127.0.0.1:PORT`: itself, after a look that the port is free; a problem if it is in use;
/// - anything else: itself.
/// Where the loopback device is down, as in a new network namespace, the second and fourth are problems.
Outcome<std::string> choose_registry(const std::string& wanted);

/// Removes what choose_registry("unix") made.
void remove_registry(const std::string& path);

/// Makes the folder `wanted`, or when that is empty a fresh one, `out/<job name>-<date>-<time>`.
/// Returns its path.
Outcome<std::string> make_run_dir(const std::string& wanted, const std::string& job_name);

}  // namespace troupe::tools
