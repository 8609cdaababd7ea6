// Reads PTX text: directives, and instructions split into opcode and operands.
#include <algorithm>
#include <cctype>
#include <cstring>
#include <stdexcept>

#include "cudasim/ptx/program.h"

namespace cudasim::ptx {
namespace {

struct Token {
  std::string text;
  int line;
};

bool in_word(char c) { return isalnum((unsigned char)c) || strchr("_$%.", c); }

// Words (names, opcodes, numbers, directives) and single punctuation marks; comments and strings are left
// out.
std::vector<Token> split(const std::string& text) {
  std::vector<Token> found;
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      ++i;
    } else if (isspace((unsigned char)c) || c == '\0') {
      ++i;
    } else if (text.compare(i, 2, "//") == 0) {
      i = std::min(text.find('\n', i), text.size());
    } else if (text.compare(i, 2, "/*") == 0) {
      const size_t end = std::min(text.find("*/", i), text.size() - 2) + 2;
      line += (int)std::count(text.begin() + i, text.begin() + end, '\n');
      i = end;
    } else if (c == '"') {
      const size_t end = std::min(text.find('"', i + 1), text.size() - 1) + 1;
      found.push_back({text.substr(i, end - i), line});
      i = end;
    } else if (in_word(c)) {
      size_t end = i;
      // "::" belongs to modifiers such as .L2::128B
      while (end < text.size() && (in_word(text[end]) || text.compare(end, 2, "::") == 0))
        end += text[end] == ':' ? 2 : 1;
      found.push_back({text.substr(i, end - i), line});
      i = end;
    } else {
      found.push_back({std::string(1, c), line});
      ++i;
    }
  }
  return found;
}

int bytes_of_type(const std::string& type) {
  if (type == ".pred") return 0;
  const size_t digits = type.find_first_of("0123456789");
  if (digits == std::string::npos) return -1;
  const bool pair = type.size() > 2 && type.substr(type.size() - 2) == "x2";
  return atoi(type.c_str() + digits) / 8 * (pair ? 2 : 1);
}

class Parser {
 public:
  explicit Parser(const std::string& text) : tokens_(split(text)) {}

  Module run() {
    while (more()) directive();
    return std::move(module_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const int line = tokens_.empty() ? 0 : tokens_[std::min(at_, tokens_.size() - 1)].line;
    throw std::runtime_error("PTX line " + std::to_string(line) + ": " + what);
  }
  bool more() const { return at_ < tokens_.size(); }
  const std::string& peek() const {
    if (!more()) fail("the text ends too early");
    return tokens_[at_].text;
  }
  std::string next() {
    std::string text = peek();
    ++at_;
    return text;
  }
  bool accept(const char* text) {
    if (!more() || peek() != text) return false;
    ++at_;
    return true;
  }
  void expect(const char* text) {
    if (!accept(text)) fail(std::string("expected ") + text + ", got " + peek());
  }
  int64_t number() {
    const bool minus = accept("-");
    const std::string text = next();
    char* end;
    const int64_t value = (int64_t)strtoull(text.c_str(), &end, 0);
    if (*end && *end != 'U') fail("expected a number, got " + text);
    return minus ? -value : value;
  }
  // The rest of a line, for directives that mean nothing here.
  void skip_line() {
    const int line = tokens_[at_].line;
    while (more() && tokens_[at_].line == line) ++at_;
  }

  void directive() {
    const std::string word = peek();
    if (word == ".version" || word == ".target" || word == ".address_size" || word == ".file" ||
        word == ".loc" || word == ".pragma") {
      skip_line();
    } else if (word == ".section") {
      while (!accept("}")) next();
    } else if (word == ".entry") {
      kernel();
    } else if (word == ".func") {
      fail(".func: functions that are not inlined are not supported");
    } else if (word == ".shared" || word == ".global" || word == ".const") {
      next();
      variable(word);
    } else if (word == ".visible" || word == ".extern" || word == ".weak" || word == ".common") {
      next();
    } else {
      fail("unknown directive " + word);
    }
  }

  // [.align n] .type name [n] [= {..}];
  void variable(const std::string& space) {
    size_t align = 1;
    if (accept(".align")) align = number();
    const std::string type = next(), name = next();
    const int element = bytes_of_type(type);
    if (element <= 0) fail("unknown type " + type);
    size_t count = 1;
    if (accept("[")) {
      count = peek() == "]" ? 0 : number();
      expect("]");
    }
    if (space == ".shared") {
      module_.shared_bytes = (module_.shared_bytes + align - 1) / align * align;
      module_.shared[name] = {module_.shared_bytes, count * element};
      module_.shared_bytes += count * element;
    } else {
      std::vector<unsigned char>& bytes = module_.constants[name];
      bytes.assign(count * element, 0);
      if (accept("=")) {
        const bool braces = accept("{");
        for (size_t i = 0; i < count; ++i) {
          const int64_t value = number();
          memcpy(bytes.data() + i * element, &value, element);
          if (!accept(",")) break;
        }
        if (braces) expect("}");
      }
    }
    expect(";");
  }

  void kernel() {
    Kernel k;
    k.line = tokens_[at_].line;
    next();
    k.name = next();
    if (accept("(")) {
      while (!accept(")")) {
        expect(".param");
        size_t align = 0, count = 1;
        int element = -1;
        while (peek()[0] == '.') {
          const std::string word = next();
          if (word == ".align")
            align = number();
          else if (word != ".ptr" && bytes_of_type(word) > 0)
            element = bytes_of_type(word);
        }
        const std::string name = next();
        if (accept("[")) {
          count = number();
          expect("]");
        }
        if (element <= 0) fail("unknown type of parameter " + name);
        align = std::max(align, (size_t)element);
        k.param_bytes = (k.param_bytes + align - 1) / align * align;
        k.params[name] = {k.param_bytes, count * element};
        k.param_bytes += count * element;
        accept(",");
      }
    }
    while (peek() != "{") next();  // .maxntid and the like
    kernel_ = &k;
    scope();
    module_.kernels.push_back(std::move(k));
  }

  // A block in braces; inline assembly opens inner ones, with registers and labels of their own.
  void scope() {
    expect("{");
    const size_t depth = scopes_.size();
    scopes_.push_back({depth == 0 ? "" : "#" + std::to_string(++inner_), {}});
    while (!accept("}")) {
      if (peek() == "{")
        scope();
      else if (peek() == ".reg")
        declare_registers();
      else if (peek() == ".shared")
        next(), variable(".shared");
      else if (peek() == ".local")
        fail(".local: kernels must not need local memory");
      else if (peek()[0] == '.')
        directive();
      else
        statement();
    }
    scopes_.pop_back();
  }

  void declare_registers() {
    next();
    std::string type = next();
    if (type == ".v2" || type == ".v4") fail("vector registers are not supported");
    int bytes = bytes_of_type(type);
    if (bytes < 0 || bytes > 8) fail("unknown register type " + type);
    if (bytes > 0 && bytes < 4) bytes = 4;
    do {
      const std::string name = next();
      if (accept("<")) {
        const int64_t count = number();
        expect(">");
        for (int64_t i = 0; i < count; ++i) declare(name + std::to_string(i), bytes);
      } else {
        declare(name, bytes);
      }
    } while (accept(","));
    expect(";");
  }

  void declare(const std::string& name, int bytes) {
    scopes_.back().names.push_back(name);
    kernel_->registers[name + scopes_.back().suffix] = bytes;
  }

  // The name under which an inner scope's register or label is kept.
  std::string resolve(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (std::find(scope->names.begin(), scope->names.end(), name) != scope->names.end())
        return name + scope->suffix;
    return name;
  }

  void statement() {
    Instruction i;
    i.line = tokens_[at_].line;
    if (tokens_[at_ + 1].text == ":") {
      kernel_->labels[label(next())] = (int)kernel_->code.size();
      next();
      return;
    }
    if (accept("@")) {
      i.guard_negated = accept("!");
      i.guard = resolve(next());
    }
    i.opcode = next();
    if (i.opcode.rfind("bra", 0) == 0) {
      i.operands.push_back({{label(next())}});
    } else {
      while (peek() != ";") {
        i.operands.push_back(operand());
        if (!accept(",")) break;
      }
    }
    expect(";");
    kernel_->code.push_back(std::move(i));
  }

  // Labels of inner scopes: those of inline assembly that is expanded several times.
  std::string label(const std::string& name) const { return name + scopes_.back().suffix; }

  Operand operand() {
    Operand o;
    o.negated = accept("!");
    if (accept("{")) {
      o.vector = true;
      do o.names.push_back(value());
      while (accept(","));
      expect("}");
    } else if (accept("[")) {
      o.address = true;
      o.names.push_back(value());
      if (accept("+")) o.offset = number();
      expect("]");
    } else {
      o.names.push_back(value());
      if (accept("|")) o.names.push_back(value());
    }
    return o;
  }

  std::string value() {
    if (accept("-")) return "-" + next();
    return resolve(next());
  }

  struct Scope {
    std::string suffix;
    std::vector<std::string> names;
  };
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int inner_ = 0;
  std::vector<Scope> scopes_;
  Kernel* kernel_ = nullptr;
  Module module_;
};

}  // namespace

Module parse(const std::string& text) { return Parser(text).run(); }

}  // namespace cudasim::ptx
