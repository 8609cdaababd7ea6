// Matrix instructions as warp-wide exchanges: every lane hands over its registers, the last to come
// multiplies.
#include "cudasim/ptx_on_host.h"

namespace seemore {
namespace cuda {
namespace {

uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

uint32_t bf16_bits(float x) {
  if (x != x) return 0x7fff;
  const uint32_t bits = bits_of(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

uint32_t half_bits(float x) {
  const _Float16 narrow = x;
  uint16_t bits;
  memcpy(&bits, &narrow, 2);
  return bits;
}

float half_value(uint32_t bits) {
  const uint16_t narrow = bits;
  _Float16 x;
  memcpy(&x, &narrow, 2);
  return x;
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

unsigned pack_half2(float low, float high) { return half_bits(low) | half_bits(high) << 16; }
float2 unpack_half2(unsigned both) { return {half_value(both & 0xffff), half_value(both >> 16)}; }
unsigned pack_bf162(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }
float2 unpack_bf162(unsigned both) { return {float_of(both << 16), float_of(both & 0xffff0000u)}; }

namespace {

// f on both halves, in double precision: exact for a product and a sum of 16-bit floats but for the last
// rounding.
template <class F>
unsigned on_halves(unsigned a, unsigned b, unsigned c, F f) {
  auto half = [&](int shift) {
    const double value =
        f(half_value(a >> shift & 0xffff), half_value(b >> shift & 0xffff), half_value(c >> shift & 0xffff));
    const _Float16 narrow = static_cast<_Float16>(value);
    uint16_t bits;
    memcpy(&bits, &narrow, 2);
    return (uint32_t)bits;
  };
  return half(0) | half(16) << 16;
}

}  // namespace

unsigned fma_half2(unsigned a, unsigned b, unsigned c) {
  return on_halves(a, b, c, [](double x, double y, double z) { return x * y + z; });
}
unsigned add_half2(unsigned a, unsigned b) {
  return on_halves(a, b, 0, [](double x, double y, double) { return x + y; });
}
unsigned mul_half2(unsigned a, unsigned b) {
  return on_halves(a, b, 0, [](double x, double y, double) { return x * y; });
}
unsigned max_half2(unsigned a, unsigned b) {
  return on_halves(a, b, 0, [](double x, double y, double) { return fmax(x, y); });
}
unsigned min_half2(unsigned a, unsigned b) {
  return on_halves(a, b, 0, [](double x, double y, double) { return fmin(x, y); });
}
unsigned exp2_half2(unsigned a) {
  return on_halves(a, 0, 0, [](double x, double, double) { return (double)exp2f((float)x); });
}
unsigned fma_bf162(unsigned a, unsigned b, unsigned c) {
  auto half = [&](int shift) {
    auto value = [&](unsigned both) { return (double)float_of(both >> shift << 16); };
    // Through float32: rounded twice in one case of 60000.
    return bf16_bits((float)(value(a) * value(b) + value(c)));
  };
  return half(0) | half(16) << 16;
}

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

void mma_k16_half_from(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, float c,
                       int line) {
  for (float& x : d) x = c;
  mma_k16_half(d, a0, a1, b, line);
}
void mma_k16_bf16_from(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b, float c,
                       int line) {
  for (float& x : d) x = c;
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

void mma_k8_tf32(float (&d)[4], float a0, float a1, float a2, float a3, float2 b, int line) {
  const float mine[6] = {a0, a1, a2, a3, b.x, b.y};
  uint32_t words[6];
  for (int i = 0; i < 6; ++i) words[i] = bits_of(mine[i]) & ~0x1fffu;  // what the tensor core looks at
  accumulate(d, "mma m16n8k8 tf32", line, words, 6, product_tf32);
}

}  // namespace cuda
}  // namespace seemore
