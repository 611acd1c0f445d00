#pragma once

#include <troupe/kernels/blas.hpp>

namespace troupe::wordnet {

/// Fixture: products stay on the thread that asks for them, as in a worker; and ThreadSanitizer, which
/// cannot see into OpenBLAS's own threads, has nothing to say about them.
struct OneBlasThread {
  OneBlasThread() { kernels::set_blas_threads(1); }
};

}  // namespace troupe::wordnet
