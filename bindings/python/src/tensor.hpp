#pragma once

#include <troupe/runtime/tensor.hpp>

#include "gil.hpp"

/// Tensors between Python and C++, none of which is copied: NumPy's arrays and others with a buffer, and what
/// speaks DLPack. With the GIL.
namespace troupe::python {

/// Whether tensor_of() would take it: an array, a Tensor, and, with `lent`, a tensor of PyTorch's, say, which
/// lends its memory by DLPack alone.
bool is_tensor(nb::handle object, bool lent = true);
/// Lends its memory, which lives for as long as the Tensor. TypeError, ValueError: it cannot be sent.
Tensor tensor_of(nb::handle object);
/// The array that has the tensor's memory; what `make`, if it is given, makes of the Tensor.
nb::object array_of(Tensor&& tensor, nb::handle make = {});
void bind_tensors(nb::module_& module);

}  // namespace troupe::python
