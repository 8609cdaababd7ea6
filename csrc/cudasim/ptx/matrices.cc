// mma, ldmatrix, stmatrix and movmatrix, in the fragment layouts of the PTX manual: lane = 4 g + t.
#include "cudasim/ptx/block.h"
#include "cudasim/ptx/narrow.h"

namespace cudasim::ptx {
namespace {

uint32_t word(const Warp& w, const Step& s, int operand, int lane) {
  return get<uint32_t>(w.registers + s.slot[operand], lane);
}

struct Tf32 {};

// Element types: how many a register holds, and what they are.
template <class T>
struct Element {
  static constexpr int kPerWord = 2;
  static float of(uint32_t bits, int i) { return value(T{(uint16_t)(bits >> (16 * i))}); }
};
template <>
struct Element<Tf32> {
  static constexpr int kPerWord = 1;
  static float of(uint32_t bits, int) { return std::bit_cast<float>(bits & ~0x1fffu); }
};

// d = a b + c for a [16, K] and b [K, 8]; operands d, a, b, c. Accumulators are float32, or pairs of float16.
template <class T, int K, bool narrow_sums>
void multiply(Warp& w, const Step& s) {
  constexpr int per = Element<T>::kPerWord, chunk = 4 * per, chunks = K / chunk;
  constexpr int results = narrow_sums ? 2 : 4, a_at = results, b_at = a_at + 2 * chunks, c_at = b_at + chunks;
  alignas(64) float a[16][K], b[K][8], sum[16][8] = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < chunks; ++i)
      for (int e = 0; e < per; ++e) {
        const int k = chunk * i + per * t + e;
        a[g][k] = Element<T>::of(word(w, s, a_at + 2 * i, lane), e);
        a[g + 8][k] = Element<T>::of(word(w, s, a_at + 2 * i + 1, lane), e);
        b[k][g] = Element<T>::of(word(w, s, b_at + i, lane), e);
      }
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < 8; ++n) sum[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      const float* row = sum[g + 8 * half] + 2 * t;
      if constexpr (narrow_sums) {
        const uint32_t c = word(w, s, c_at + half, lane);
        put(w.registers + s.slot[half], lane,
            narrow_pair<F16>(row[0] + Element<F16>::of(c, 0), row[1] + Element<F16>::of(c, 1)));
      } else {
        for (int i = 0; i < 2; ++i) {
          const int at = 2 * half + i;
          put(w.registers + s.slot[at], lane, row[i] + std::bit_cast<float>(word(w, s, c_at + at, lane)));
        }
      }
    }
  }
}

uint64_t address_of(const Warp& w, const Step& s, int operand, int lane) {
  const unsigned char* slot = w.registers + s.slot[operand];
  return (s.lane_bytes[operand] == 8 ? get<uint64_t>(slot, lane) : get<uint32_t>(slot, lane)) + s.offset;
}

void count_rows(Warp& w, const Step& s, int matrices, const unsigned char* const (&rows)[kLanes]) {
  uint64_t address[kLanes] = {};
  for (int i = 0; i < 8 * matrices; ++i) address[i] = rows[i] - w.block->shared;
  w.block->count_shared(s.number, matrices == 4 ? kAll : (1u << 8 * matrices) - 1, address, 16);
}

// Lane i gives the address of row i % 8 of matrix i / 8.
template <int matrices, bool transposed>
void load(Warp& w, const Step& s) {
  const unsigned char* rows[kLanes];
  for (int i = 0; i < 8 * matrices; ++i)
    rows[i] = w.block->shared_at(w, i, address_of(w, s, matrices, i), 16, false);
  count_rows(w, s, matrices, rows);
  for (int m = 0; m < matrices; ++m)
    for (int lane = 0; lane < kLanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      uint16_t both[2];
      for (int e = 0; e < 2; ++e) {
        const int row = transposed ? 2 * t + e : g, column = transposed ? g : 2 * t + e;
        memcpy(both + e, rows[8 * m + row] + 2 * column, 2);
      }
      put(w.registers + s.slot[m], lane, (uint32_t)both[0] | (uint32_t)both[1] << 16);
    }
}

template <int matrices, bool transposed>
void store(Warp& w, const Step& s) {
  unsigned char* rows[kLanes];
  const unsigned char* seen[kLanes];
  for (int i = 0; i < 8 * matrices; ++i)
    seen[i] = rows[i] = w.block->shared_at(w, i, address_of(w, s, 0, i), 16, true);
  count_rows(w, s, matrices, seen);
  for (int m = 0; m < matrices; ++m)
    for (int lane = 0; lane < kLanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t bits = word(w, s, 1 + m, lane);
      for (int e = 0; e < 2; ++e) {
        const auto element = (uint16_t)(bits >> (16 * e));
        const int row = transposed ? 2 * t + e : g, column = transposed ? g : 2 * t + e;
        memcpy(rows[8 * m + row] + 2 * column, &element, 2);
      }
    }
}

// Lane 4 g + t holds (g, 2t), (g, 2t + 1) before and after.
void transpose(Warp& w, const Step& s) {
  uint16_t matrix[8][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t bits = word(w, s, 1, lane);
    memcpy(&matrix[lane / 4][2 * (lane % 4)], &bits, 4);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    put(w.registers + s.slot[0], lane, (uint32_t)matrix[2 * t][g] | (uint32_t)matrix[2 * t + 1][g] << 16);
  }
}

template <bool transposed>
void add_moves(Rules& r, const std::string& trans) {
  for (const char* space : {".shared", ".shared::cta"}) {
    const std::string end = trans + space + ".b16";
    r["ldmatrix.sync.aligned.m8n8.x1" + end] = together("4*", load<1, transposed>);
    r["ldmatrix.sync.aligned.m8n8.x2" + end] = together("44*", load<2, transposed>);
    r["ldmatrix.sync.aligned.m8n8.x4" + end] = together("4444*", load<4, transposed>);
    r["stmatrix.sync.aligned.m8n8.x1" + end] = together("*4", store<1, transposed>);
    r["stmatrix.sync.aligned.m8n8.x2" + end] = together("*44", store<2, transposed>);
    r["stmatrix.sync.aligned.m8n8.x4" + end] = together("*4444", store<4, transposed>);
  }
}

}  // namespace

void add_matrices(Rules& r) {
  const std::string mma = "mma.sync.aligned.m16n8k";
  r[mma + "16.row.col.f32.f16.f16.f32"] = together("44444444444444", multiply<F16, 16, false>);
  r[mma + "16.row.col.f32.bf16.bf16.f32"] = together("44444444444444", multiply<BF16, 16, false>);
  r[mma + "16.row.col.f16.f16.f16.f16"] = together("4444444444", multiply<F16, 16, true>);
  r[mma + "8.row.col.f32.f16.f16.f32"] = together("44444444444", multiply<F16, 8, false>);
  r[mma + "8.row.col.f32.bf16.bf16.f32"] = together("44444444444", multiply<BF16, 8, false>);
  r[mma + "8.row.col.f16.f16.f16.f16"] = together("4444444", multiply<F16, 8, true>);
  r[mma + "8.row.col.f32.tf32.tf32.f32"] = together("44444444444444", multiply<Tf32, 8, false>);
  r[mma + "4.row.col.f32.tf32.tf32.f32"] = together("44444444444", multiply<Tf32, 4, false>);
  add_moves<false>(r, "");
  add_moves<true>(r, ".trans");
  r["movmatrix.sync.aligned.m8n8.trans.b16"] = together("44", transpose);
}

}  // namespace cudasim::ptx
