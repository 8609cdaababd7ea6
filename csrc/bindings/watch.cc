// Watch: whether the tensors in some dicts are still the same and unwritten, in a few nanoseconds for each.
//
// Asking torch through Python costs a hundred for each. This knows nothing of torch but the addresses of two
// of its functions, and finds where a Python tensor keeps its at::Tensor by what the tensor itself says.
#include <cstring>
#include <stdexcept>
#include <vector>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace seemore {
namespace {

using Version = int64_t (*)(const void* tensor);         // at::TensorBase::_version
using Address = int32_t (*)(void* tensor, void** data);  // aoti_torch_get_data_ptr

class __attribute__((visibility("hidden"))) Watch {
 public:
  Watch(const py::list& dicts, const py::type& tensor, uintptr_t version, uintptr_t address)
      : version_(reinterpret_cast<Version>(version)), address_(reinterpret_cast<Address>(address)) {
    auto* const type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
    for (const py::handle dict : dicts) {
      if (!PyDict_Check(dict.ptr())) throw py::type_error("dicts must be dicts");
      Held held = {py::reinterpret_borrow<py::object>(dict), {}};
      PyObject *key, *value;
      for (Py_ssize_t at = 0; PyDict_Next(dict.ptr(), &at, &key, &value);) {
        held.items.push_back(
            {py::reinterpret_borrow<py::object>(value), PyObject_TypeCheck(value, type) != 0, {}});
        if (held.items.back().is_tensor) find_inside(held.items.back().value);
      }
      held_.push_back(std::move(held));
    }
    for (Held& held : held_)
      for (Item& item : held.items)
        if (item.is_tensor && !read(item.value.ptr(), &item.state))
          throw std::runtime_error("a tensor without memory of its own");
  }

  bool unchanged() const {
    constexpr size_t kAhead = 8;  // dicts, to fetch: what they hold lies all over memory
    for (size_t i = 0; i < held_.size(); ++i) {
      const Held& held = held_[i];
      if (i + kAhead < held_.size()) fetch(held_[i + kAhead]);
      if (PyDict_GET_SIZE(held.dict.ptr()) != static_cast<Py_ssize_t>(held.items.size())) return false;
      PyObject *key, *value;
      auto item = held.items.begin();
      for (Py_ssize_t at = 0; PyDict_Next(held.dict.ptr(), &at, &key, &value); ++item) {
        if (value != item->value.ptr()) return false;
        if (!item->is_tensor) continue;
        // Only the tensors that had a version are asked for it: the wheels' own C++ runtime (.ci/wheels.py)
        // could not catch what torch's throws for others.
        State now;
        if (impl_of(value) != item->state.impl || !read(value, &now) || now.version != item->state.version ||
            now.address != item->state.address)
          return false;
      }
    }
    return true;
  }

 private:
  struct State {
    const void* impl;
    int64_t version;
    void* address;
  };
  struct Item {
    py::object value;
    bool is_tensor;
    State state;
  };
  struct Held {
    py::object dict;
    std::vector<Item> items;
  };

  // Sets inside_, or throws where this tensor keeps its at::Tensor elsewhere than those before.
  void find_inside(const py::object& tensor) {
    const auto impl = tensor.attr("_cdata").cast<uintptr_t>();
    const size_t last = inside_ ? inside_ : sizeof(PyObject) + sizeof(void*);
    for (size_t at = inside_ ? inside_ : sizeof(PyObject); at <= last; at += sizeof(void*)) {
      uintptr_t there;
      if (at + sizeof there > static_cast<size_t>(Py_TYPE(tensor.ptr())->tp_basicsize)) break;
      memcpy(&there, reinterpret_cast<const char*>(tensor.ptr()) + at, sizeof there);
      if (there == impl) {
        inside_ = at;
        return;
      }
    }
    throw std::runtime_error("this torch lays its tensors out in another way");
  }

  static void fetch(const Held& held) {
    __builtin_prefetch(held.dict.ptr());
    for (const Item& item : held.items) {
      __builtin_prefetch(item.value.ptr());
      if (!item.is_tensor) continue;
      __builtin_prefetch(item.state.impl);
      __builtin_prefetch(static_cast<const char*>(item.state.impl) + 64);
    }
  }

  const void* impl_of(PyObject* tensor) const {
    const void* impl;
    memcpy(&impl, reinterpret_cast<char*>(tensor) + inside_, sizeof impl);
    return impl;
  }

  bool read(PyObject* tensor, State* state) const {
    void* const inside = reinterpret_cast<char*>(tensor) + inside_;
    state->impl = impl_of(tensor);
    if (!state->impl) return false;
    try {
      state->version = version_(inside);
    } catch (...) {  // a tensor of inference mode
      return false;
    }
    return address_(inside, &state->address) == 0;
  }

  const Version version_;
  const Address address_;
  size_t inside_ = 0;  // bytes of a Python tensor before its at::Tensor
  std::vector<Held> held_;
};

}  // namespace

void bind_watch(py::module_& m) {
  using py::arg;
  py::class_<Watch>(m, "Watch",
                    "Tells whether the tensors in dicts are the same as when it was made, and unwritten; see "
                    "seemore_fast.engines.packed, its only user.")
      .def(py::init<const py::list&, const py::type&, uintptr_t, uintptr_t>(), arg("dicts"), arg("tensor"),
           arg("version"), arg("address"))
      .def("unchanged", &Watch::unchanged);
}

}  // namespace seemore
