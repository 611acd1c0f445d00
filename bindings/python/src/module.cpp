// The extension module troupe._troupe.
#include "call.hpp"
#include "hooks.hpp"
#include "node.hpp"
#include "tensor.hpp"
#include "type.hpp"

namespace troupe::python {

Hooks& hooks() {
  static Hooks hooks;
  return hooks;
}

namespace {

void set_hooks(const nb::dict& given) {
  const auto set = [&](PyObject*& hook, const char* name) {
    if (given.contains(name)) hook = nb::object(given[name]).release().ptr();
  };
  set(hooks().to_array, "to_array");
  set(hooks().plain, "plain");
  set(hooks().pickle, "pickle");
  set(hooks().unpickle, "unpickle");
  set(hooks().extension, "extension");
  set(hooks().extended, "extended");
  set(hooks().error, "error");
  set(hooks().describe, "describe");
  set(hooks().type_of, "type_of");
}

}  // namespace
}  // namespace troupe::python

NB_MODULE(_troupe, module) {
  using namespace troupe::python;
  nb::set_leak_warnings(false);  // what actors refer to may outlive the module
  bind_types(module);
  bind_tensors(module);
  bind_calls(module);
  bind_nodes(module);
  bind_actors(module);
  bind_tables(module);
  module.def("set_hooks", &set_hooks);
  module.def("interpreter_ends", &interpreter_ends);
}
