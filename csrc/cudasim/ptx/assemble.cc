// Looks instructions up and gives registers, constants and special registers their places.
#include "cudasim/ptx/assemble.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>

namespace cudasim::ptx {
namespace {

const Rules& all_rules() {
  static const Rules rules = [] {
    Rules r;
    add_integers(r);
    add_floats(r);
    add_halves(r);
    add_conversions(r);
    add_exchanges(r);
    add_matrices(r);
    return r;
  }();
  return rules;
}

// Without namespaces and the return type: as kernels are named in messages.
std::string readable(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), free);
  if (status) return mangled;
  std::string name = text.get();
  for (size_t at; (at = name.find("seemore::cuda::")) != std::string::npos;) name.erase(at, 15);
  int depth = 0;  // of <>: the parameters' parenthesis is the first outside
  size_t end = 0, begin = 0;
  for (; end < name.size() && !(depth == 0 && name[end] == '('); ++end) {
    depth += name[end] == '<' ? 1 : name[end] == '>' ? -1 : 0;
    if (depth == 0 && name[end] == ' ') begin = end + 1;
  }
  return name.substr(begin, end - begin);
}

bool remove(std::string& text, const std::string& part) {
  const size_t at = text.find(part);
  if (at == std::string::npos) return false;
  text.erase(at, part.size());
  return true;
}

// A conversion of 32 bits from a register of 64, by way of the slot behind the operands'.
void from_lower_half(Warp& w, const Step& s) {
  Step narrow = s;
  narrow.slot[1] = s.slot[s.count];
  for (int i = 0; i < kLanes; ++i)
    put(w.registers + narrow.slot[1], i, (uint32_t)get<uint64_t>(w.registers + s.slot[1], i));
  s.narrow_run(w, narrow);
}

class Assembler {
 public:
  Assembler(const Module& module, const Kernel& kernel) : module_(module), kernel_(kernel) {
    p_.mangled = kernel.name;
    p_.name = readable(kernel.name);
    p_.param_bytes = kernel.param_bytes;
    p_.static_shared = module.shared_bytes;
    for (const auto& [name, bytes] : kernel.registers) slots_[name] = {place(bytes), bytes};
    sink_ = place(8);
  }

  Program run() {
    for (const Instruction& i : kernel_.code) {
      try {
        add(i);
      } catch (const std::runtime_error& error) {
        throw std::runtime_error("PTX line " + std::to_string(i.line) + " of " + p_.name + ": " +
                                 error.what());
      }
    }
    p_.register_bytes = bytes_;
    find_joins(p_);
    return std::move(p_);
  }

 private:
  struct Slot {
    uint32_t at;
    int bytes;
  };

  uint32_t place(int bytes) {
    const uint32_t at = bytes_;
    bytes_ += bytes ? kLanes * bytes : 64;  // all begin at a multiple of 64
    return at;
  }

  Slot constant(uint64_t value, int bytes) {
    const std::string key = std::to_string(value) + ":" + std::to_string(bytes);
    auto [at, fresh] = constants_.try_emplace(key, Slot{0, bytes});
    if (fresh) {
      at->second.at = place(bytes);
      p_.constants.push_back({at->second.at, bytes, value});
    }
    return at->second;
  }

  // The value of a literal or of a variable's address.
  bool value_of(const std::string& name, uint64_t* value) const {
    const char* text = name.c_str();
    if (name.rfind("0f", 0) == 0 || name.rfind("0F", 0) == 0 || name.rfind("0d", 0) == 0 ||
        name.rfind("0D", 0) == 0) {
      *value = strtoull(text + 2, nullptr, 16);
      return true;
    }
    if (isdigit(text[0]) || text[0] == '-') {
      *value = strtoull(text, nullptr, 0);
      return true;
    }
    if (const auto shared = module_.shared.find(name); shared != module_.shared.end()) {
      *value = shared->second.at;
      return true;
    }
    if (const auto bytes = module_.constants.find(name); bytes != module_.constants.end()) {
      *value = reinterpret_cast<uint64_t>(bytes->second.data());
      return true;
    }
    return false;
  }

  static bool is_special(const std::string& name) {
    if (name == "%laneid" || name == "%warpid") return true;
    for (const char* of : {"%tid.", "%ntid.", "%ctaid.", "%nctaid."})
      if (name.rfind(of, 0) == 0) return true;
    return false;
  }

  // width: p, 4, 8 or *
  Slot find(const std::string& name, char width) {
    if (name == "_") return {sink_, width == 'p' ? 0 : width == '8' ? 8 : 4};
    if (const auto known = slots_.find(name); known != slots_.end()) return known->second;
    if (const auto param = kernel_.params.find(name); param != kernel_.params.end()) {
      const Slot slot = slots_[name] = {place(8), 8};
      p_.params.push_back({slot.at, param->second.at});
      return slot;
    }
    if (is_special(name)) {
      const Slot slot = slots_[name] = {place(4), 4};
      p_.specials.push_back({name, slot.at});
      return slot;
    }
    uint64_t value;
    if (!value_of(name, &value)) throw std::runtime_error("unknown operand " + name);
    if (width == 'p') return constant(value ? kAll : 0, 0);
    return constant(value, width == '8' ? 8 : 4);
  }

  void operand(Step& s, const std::string& name, char width) {
    const Slot slot = find(name, width);
    const char is = slot.bytes == 0 ? 'p' : slot.bytes == 8 ? '8' : '4';
    if (width != '*' && width != is) throw std::runtime_error("operand " + name + " has the wrong type");
    if (s.count == kMostOperands) throw std::runtime_error("too many operands");
    s.slot[s.count] = slot.at;
    s.lane_bytes[s.count++] = (uint8_t)slot.bytes;
  }

  static Control control_of(const std::string& opcode) {
    if (opcode == "bra" || opcode == "bra.uni") return kBranch;
    if (opcode == "ret" || opcode == "exit") return kReturn;
    if (opcode == "bar.sync" || opcode == "barrier.sync" || opcode == "barrier.sync.aligned") return kBarrier;
    if (opcode == "trap") return kTrap;
    return kNone;
  }

  static bool without_effect(const std::string& opcode) {
    return opcode.rfind("membar", 0) == 0 || opcode.rfind("fence", 0) == 0 ||
           opcode.rfind("griddepcontrol", 0) == 0 || opcode.rfind("prefetch", 0) == 0;
  }

  Rule look_up(const Instruction& i, bool* ftz) const {
    std::string opcode = i.opcode;
    if (const Rule rule = memory_rule(opcode); rule.run) return rule;
    *ftz = remove(opcode, ".ftz");
    if (opcode.rfind("mov.", 0) == 0) {
      if (i.operands[0].vector) opcode += " {}=";
      if (i.operands.size() > 1 && i.operands[1].vector) opcode += " ={}";
    }
    const auto rule = all_rules().find(opcode);
    if (rule == all_rules().end()) throw std::runtime_error("unknown instruction " + i.opcode);
    return rule->second;
  }

  void add(const Instruction& i) {
    Step s = {};
    s.line = i.line;
    s.number = (int)p_.steps.size();
    if (!i.guard.empty()) {
      s.guarded = true;
      s.guard_negated = i.guard_negated;
      s.guard = find(i.guard, 'p').at;
    }
    const Control control = control_of(i.opcode);
    if (control == kBranch) {
      const auto label = kernel_.labels.find(i.operands[0].names[0]);
      if (label == kernel_.labels.end()) throw std::runtime_error("unknown label " + i.operands[0].names[0]);
      s.target = label->second;
    } else if (control == kBarrier) {
      if (i.operands.size() != 1) throw std::runtime_error("barriers of parts of a block are not supported");
    } else if (control == kNone) {
      set_operands(s, i);
    }
    p_.steps.push_back(s);
    p_.control.push_back(control);
    p_.opcodes.push_back(i.opcode);
  }

  void set_operands(Step& s, const Instruction& i) {
    if (without_effect(i.opcode)) {
      s.run = [](Warp&, const Step&) {};
      return;
    }
    bool ftz = false;
    Rule rule = look_up(i, &ftz);
    const bool lower_half = i.opcode.rfind("cvt.", 0) == 0 && i.operands.size() == 2 &&
                            rule.widths[1] == '4' && find(i.operands[1].names[0], '4').bytes == 8;
    if (lower_half) rule.widths[1] = '8';
    s.run = ftz ? rule.run_ftz : rule.run;
    s.full = rule.full;
    s.modifier = rule.modifier;
    size_t at = 0;
    auto width = [&] { return at < rule.widths.size() ? rule.widths[at++] : '4'; };
    const bool has_second = i.opcode.rfind("shfl", 0) == 0;
    int addresses = 0;
    for (size_t o = 0; o < i.operands.size(); ++o) {
      const Operand& operand_ = i.operands[o];
      if (operand_.negated) throw std::runtime_error("negated operands are not supported");
      if (operand_.address) (addresses++ ? s.offset_of_source : s.offset) = operand_.offset;
      for (const std::string& name : operand_.names) operand(s, name, width());
      if (o == 0 && has_second && operand_.names.size() == 1) operand(s, "_", width());
    }
    if (lower_half) {
      s.narrow_run = s.run;
      s.run = from_lower_half;
      s.slot[s.count] = place(4);
    }
    // Instructions with optional last operands are checked where they run.
    if (s.count != rule.widths.size() && i.opcode.rfind("cp.async", 0) != 0)
      throw std::runtime_error("wrong number of operands of " + i.opcode);
  }

  const Module& module_;
  const Kernel& kernel_;
  Program p_;
  std::unordered_map<std::string, Slot> slots_;
  std::unordered_map<std::string, Slot> constants_;
  uint32_t bytes_ = 0, sink_;
};

}  // namespace

Program assemble(const Module& module, const Kernel& kernel) { return Assembler(module, kernel).run(); }

}  // namespace cudasim::ptx
