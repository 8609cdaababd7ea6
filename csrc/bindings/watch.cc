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

using Version = int64_t (*)(const void* tensor);             // at::TensorBase::_version
using DataPointer = int32_t (*)(void* tensor, void** data);  // aoti_torch_get_data_ptr

class __attribute__((visibility("hidden"))) Watch {
 public:
  Watch(const py::list& dicts, const py::type& tensor, uintptr_t version, uintptr_t address)
      : version_(reinterpret_cast<Version>(version)), address_(reinterpret_cast<DataPointer>(address)) {
    auto* const type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
    for (const py::handle dict : dicts) {
      if (!PyDict_Check(dict.ptr())) throw py::type_error("dicts must be dicts");
      dicts_.push_back({py::reinterpret_borrow<py::object>(dict), PyDict_GET_SIZE(dict.ptr())});
      PyObject *key, *value;
      for (Py_ssize_t at = 0; PyDict_Next(dict.ptr(), &at, &key, &value);) {
        values_.push_back(py::reinterpret_borrow<py::object>(value));
        if (!PyObject_TypeCheck(value, type)) continue;
        find_inside(values_.back());
        tensors_.push_back({value, {}});
      }
    }
    for (Held& held : tensors_)
      if (!read(held.tensor, &held.state)) throw std::runtime_error("a tensor without memory of its own");
  }

  bool unchanged() const { return same_values() && same_states(); }

 private:
  struct Dict {
    py::object dict;
    Py_ssize_t size;
  };
  struct State {
    const void* impl;
    int64_t version;
    void* address;
  };
  struct Held {
    PyObject* tensor;  // one of values_
    State state;
  };

  // What is looked at lies all over memory: it is fetched so many dicts or tensors ahead, twice as many for
  // what tells where the next is.
  static constexpr size_t kAhead = 8;

  bool same_values() const {
    auto value = values_.begin();
    for (size_t i = 0; i < dicts_.size(); ++i) {
      if (i + 2 * kAhead < dicts_.size()) __builtin_prefetch(dicts_[i + 2 * kAhead].dict.ptr());
      if (i + kAhead < dicts_.size()) {
        const Dict& next = dicts_[i + kAhead];
        if (next.size) fetch(reinterpret_cast<PyDictObject*>(next.dict.ptr())->ma_keys, 2);
      }
      const auto& [dict, size] = dicts_[i];
      if (PyDict_GET_SIZE(dict.ptr()) != size) return false;
      PyObject *key, *now;
      if (size)
        for (Py_ssize_t at = 0; PyDict_Next(dict.ptr(), &at, &key, &now);)
          if (now != (value++)->ptr()) return false;
    }
    return true;
  }

  // Only the tensors that had a version are asked for it: the wheels' own C++ runtime (.ci/wheels.py) could
  // not catch what torch's throws for others.
  bool same_states() const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (i + 2 * kAhead < tensors_.size()) __builtin_prefetch(tensors_[i + 2 * kAhead].tensor);
      if (i + kAhead < tensors_.size()) fetch(tensors_[i + kAhead].state.impl, 3);
      const auto& [tensor, state] = tensors_[i];
      State now;
      if (impl_of(tensor) != state.impl || !read(tensor, &now) || now.version != state.version ||
          now.address != state.address)
        return false;
    }
    return true;
  }

  static void fetch(const void* at, int lines) {
    for (int line = 0; line < lines; ++line) __builtin_prefetch(static_cast<const char*>(at) + 64 * line);
  }

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
  const DataPointer address_;
  size_t inside_ = 0;  // bytes of a Python tensor before its at::Tensor
  std::vector<Dict> dicts_;
  std::vector<py::object> values_;  // of all dicts, in order
  std::vector<Held> tensors_;       // those of them that are tensors
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
