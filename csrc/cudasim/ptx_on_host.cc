// Matrix instructions as warp-wide exchanges: every lane hands over its registers, the last to come
// multiplies.
#include "cudasim/ptx_on_host.h"

#include <bit>

#include "cudasim/ptx/narrow.h"

namespace seemore {
namespace cuda {
namespace {

using cudasim::ptx::BF16;
using cudasim::ptx::F16;
using cudasim::ptx::fused;
using cudasim::ptx::narrow;
using cudasim::ptx::Pair;
using cudasim::ptx::value;

uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }
float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }

template <class T>
Pair<T> halves(uint32_t both) {
  return std::bit_cast<Pair<T>>(both);
}
template <class T>
uint32_t packed(T low, T high) {
  return std::bit_cast<uint32_t>(Pair<T>{low, high});
}

void ldmatrix(unsigned* out, int matrices, bool transposed, const void* row, int line) {
  const uint64_t address = reinterpret_cast<uint64_t>(row);
  if (cudasim::lane() < 8 * matrices) {  // whose addresses count
    if (address % 16) cudasim::fail("ldmatrix from an address that is not a multiple of 16 bytes");
    cudasim::on_access(row, 16, false);
  }
  uint32_t words[2];
  memcpy(words, &address, 8);
  const uint32_t* all = cudasim::exchange({"ldmatrix", "ptx.cuh, called", line}, words, 2);
  const int g = cudasim::lane() / 4, t = cudasim::lane() % 4;
  for (int i = 0; i < matrices; ++i) {
    for (int j = 0; j < 2; ++j) {  // element (g, 2t + j), or (2t + j, g)
      const int from_row = transposed ? 2 * t + j : g, column = transposed ? g : 2 * t + j;
      uint64_t from;
      memcpy(&from, all + 2 * (8 * i + from_row), 8);
      memcpy(reinterpret_cast<uint16_t*>(out + i) + j, reinterpret_cast<const uint16_t*>(from) + column, 2);
    }
  }
}

// Rows of B and of D [16][8].
using Row = float __attribute__((vector_size(32)));

// What the warp's words make, D [16][8], to each lane its four elements.
void hand_out(const Row (&d)[16], uint32_t* made) {
  for (int i = 0; i < cudasim::kWarp; ++i)
    for (int j = 0; j < 4; ++j) made[4 * i + j] = bits_of(d[i / 4 + j / 2 * 8][i % 4 * 2 + j % 2]);
}

// A B of 16-bit elements; words of a lane: A's 2 k / 8 registers, then B's k / 8.
template <int chunks, auto unpack>
void product_16bit(const uint32_t* all, uint32_t* made) {
  constexpr int count = 3 * chunks;
  Row d[16] = {};
  for (int chunk = 0; chunk < chunks; ++chunk)
    for (int pair = 0; pair < 4; ++pair) {  // elements 8 chunk + 2 pair and the next
      Row bx, by;
      for (int column = 0; column < 8; ++column) {
        const float2 b = unpack(all[(4 * column + pair) * count + 2 * chunks + chunk]);
        bx[column] = b.x;
        by[column] = b.y;
      }
      for (int row = 0; row < 16; ++row) {
        const float2 a = unpack(all[(4 * (row % 8) + pair) * count + 2 * chunk + row / 8]);
        d[row] += a.x * bx + a.y * by;
      }
    }
  hand_out(d, made);
}

// The same of TF32, k = 8.
void product_tf32(const uint32_t* all, uint32_t* made) {
  Row d[16] = {};
  for (int k = 0; k < 8; ++k) {
    Row b;
    for (int column = 0; column < 8; ++column)
      b[column] = float_of(all[6 * (4 * column + k % 4) + (k < 4 ? 4 : 5)]);
    for (int row = 0; row < 16; ++row)
      d[row] += float_of(all[6 * (4 * (row % 8) + k % 4) + (k < 4 ? 0 : 2) + row / 8]) * b;
  }
  hand_out(d, made);
}

// d += what the warp's words make.
void accumulate(float (&d)[4], const char* what, int line, const uint32_t* words, int count,
                cudasim::Combine product) {
  const uint32_t* made = cudasim::exchange({what, "ptx.cuh, called", line}, words, count, product);
  for (int i = 0; i < 4; ++i) d[i] += float_of(made[4 * cudasim::lane() + i]);
}

template <auto unpack>
void mma_k16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, int line) {
  const uint32_t words[6] = {a0[0], a0[1], a1[0], a1[1], b.x, b.y};
  accumulate(d, "mma m16n8k16", line, words, 6, product_16bit<2, unpack>);
}

template <auto unpack>
void mma_k8(float (&d)[4], const unsigned (&a)[2], unsigned b, int line) {
  const uint32_t words[3] = {a[0], a[1], b};
  accumulate(d, "mma m16n8k8", line, words, 3, product_16bit<1, unpack>);
}

}  // namespace

float round_tf32(float x) {
  if (!std::isfinite(x)) return x;
  return float_of((bits_of(x) + 0x1000) & ~0x1fffu);
}

namespace {

template <class T>
float2 unpack(unsigned both) {
  const Pair<T> x = halves<T>(both);
  return {value(x.low), value(x.high)};
}

template <class T>
unsigned fma(unsigned a, unsigned b, unsigned c) {
  const Pair<T> x = halves<T>(a), y = halves<T>(b), z = halves<T>(c);
  return packed(fused(x.low, y.low, z.low), fused(x.high, y.high, z.high));
}

// f in float32, in which one sum or product of 16-bit floats, rounded, rounds to the right one.
template <class F>
unsigned on_halves(unsigned a, unsigned b, F f) {
  const Pair<F16> x = halves<F16>(a), y = halves<F16>(b);
  return packed(narrow<F16>(f(value(x.low), value(y.low))), narrow<F16>(f(value(x.high), value(y.high))));
}

}  // namespace

unsigned pack_half2(float low, float high) { return packed(narrow<F16>(low), narrow<F16>(high)); }
float2 unpack_half2(unsigned both) { return unpack<F16>(both); }
unsigned pack_bf162(float low, float high) { return packed(narrow<BF16>(low), narrow<BF16>(high)); }
float2 unpack_bf162(unsigned both) { return unpack<BF16>(both); }

unsigned fma_half2(unsigned a, unsigned b, unsigned c) { return fma<F16>(a, b, c); }
unsigned add_half2(unsigned a, unsigned b) {
  return on_halves(a, b, [](float x, float y) { return x + y; });
}
unsigned mul_half2(unsigned a, unsigned b) {
  return on_halves(a, b, [](float x, float y) { return x * y; });
}
unsigned max_half2(unsigned a, unsigned b) {
  return on_halves(a, b, [](float x, float y) { return fmaxf(x, y); });
}
unsigned min_half2(unsigned a, unsigned b) {
  return on_halves(a, b, [](float x, float y) { return fminf(x, y); });
}
unsigned exp2_half2(unsigned a) {
  return on_halves(a, 0, [](float x, float) { return exp2f(x); });
}
unsigned fma_bf162(unsigned a, unsigned b, unsigned c) { return fma<BF16>(a, b, c); }

void ldmatrix_x4(unsigned (&out)[4], const void* row, int line) { ldmatrix(out, 4, false, row, line); }
void ldmatrix_x2(unsigned (&out)[2], const void* row, int line) { ldmatrix(out, 2, false, row, line); }
void ldmatrix_x4_transposed(unsigned (&out)[4], const void* row, int line) {
  ldmatrix(out, 4, true, row, line);
}

void mma_k16_half(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, int line) {
  mma_k16<unpack_half2>(d, a0, a1, b, line);
}
void mma_k16_bf16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, int line) {
  mma_k16<unpack_bf162>(d, a0, a1, b, line);
}
void mma_k8_half(float (&d)[4], const unsigned (&a)[2], unsigned b, int line) {
  mma_k8<unpack_half2>(d, a, b, line);
}
void mma_k8_bf16(float (&d)[4], const unsigned (&a)[2], unsigned b, int line) {
  mma_k8<unpack_bf162>(d, a, b, line);
}

namespace {

// A product that adds to pairs of halves: in float32, and rounded.
template <class Product>
void rounded_sums(unsigned (&d)[2], Product product) {
  const float2 upper = unpack_half2(d[0]), lower = unpack_half2(d[1]);
  float sums[4] = {upper.x, upper.y, lower.x, lower.y};
  product(sums);
  d[0] = pack_half2(sums[0], sums[1]);
  d[1] = pack_half2(sums[2], sums[3]);
}

}  // namespace

void mma_k16_half_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, int line) {
  for (float& x : d) x = 0;
  mma_k16_half(d, a0, a1, b, line);
}
void mma_k16_bf16_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, int line) {
  for (float& x : d) x = 0;
  mma_k16_bf16(d, a0, a1, b, line);
}
void mma_k8_half_first(float (&d)[4], const unsigned (&a)[2], unsigned b, int line) {
  for (float& x : d) x = 0;
  mma_k8_half(d, a, b, line);
}
void mma_k8_bf16_first(float (&d)[4], const unsigned (&a)[2], unsigned b, int line) {
  for (float& x : d) x = 0;
  mma_k8_bf16(d, a, b, line);
}

void mma_k16_half(unsigned (&d)[2], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, int line) {
  rounded_sums(d, [&](auto& sums) { mma_k16_half(sums, a0, a1, b, line); });
}
void mma_k8_half(unsigned (&d)[2], const unsigned (&a)[2], unsigned b, int line) {
  rounded_sums(d, [&](auto& sums) { mma_k8_half(sums, a, b, line); });
}
void mma_k16_half_first(unsigned (&d)[2], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                        int line) {
  d[0] = d[1] = 0;
  mma_k16_half(d, a0, a1, b, line);
}

void mma_k8_tf32(float (&d)[4], float a0, float a1, float a2, float a3, float2 b, int line) {
  const float mine[6] = {a0, a1, a2, a3, b.x, b.y};
  uint32_t words[6];
  for (int i = 0; i < 6; ++i) words[i] = bits_of(mine[i]) & ~0x1fffu;  // what the tensor core looks at
  accumulate(d, "mma m16n8k8 tf32", line, words, 6, product_tf32);
}

}  // namespace cuda
}  // namespace seemore
