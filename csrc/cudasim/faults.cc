#include "cudasim/faults.h"

#include <cmath>

#include "cuda/ptx.cuh"

using namespace seemore::cuda;

namespace {

constexpr int kCount = 64;  // threads of every block
float global_in[kCount], global_out[2 * kCount];

SM_DEVICE float* numbers() {
  SM_DYNAMIC_SHARED(memory);
  return reinterpret_cast<float*>(memory);
}

// Each thread hands its value to the next one.
__global__ void neighbours(bool with_barrier) {
  float* shared = numbers();
  const int i = threadIdx.x;
  shared[i] = global_in[i];
  if (with_barrier) __syncthreads();
  global_out[kCount * blockIdx.x + i] = shared[(i + 1) % kCount];
}

__global__ void warp_neighbours(bool with_barrier) {
  float* shared = numbers();
  const int i = threadIdx.x;
  shared[i] = global_in[i];
  if (with_barrier) __syncwarp();
  global_out[i] = shared[i ^ 1];
}

__global__ void beyond_shared(int extra) { numbers()[(int)threadIdx.x + extra] = 1; }

__global__ void unwritten() {
  float* shared = numbers();
  if (threadIdx.x != 5) shared[threadIdx.x] = 1;
  __syncthreads();
  global_out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void divergent_exit() {
  if (threadIdx.x == 7) return;
  __syncthreads();
}

__global__ void divergent_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void divergent_shuffle() {
  if (threadIdx.x % 32 < 16) global_out[threadIdx.x] = __shfl_xor_sync(kFullMask, 1.0f, 1);
}

__global__ void conflicting_writes() { numbers()[threadIdx.x / 2] = (float)threadIdx.x; }

__global__ void overwrite_what_others_read() {
  float* shared = numbers();
  shared[threadIdx.x] = global_in[threadIdx.x];
  __syncthreads();
  const float next = shared[(threadIdx.x + 1) % kCount];
  shared[threadIdx.x] = next;
}

__global__ void beyond_global() { global_out[(1 << 20) + threadIdx.x] = 1; }
__global__ void write_to_input() { global_in[threadIdx.x] = 1; }
__global__ void blocks_collide() { global_out[threadIdx.x] = (float)blockIdx.x; }
__global__ void misaligned() {
  numbers()[threadIdx.x] = 1;
  __syncthreads();
  const float2 pair = *reinterpret_cast<const float2*>(numbers() + 1);
  global_out[threadIdx.x] = pair.x + pair.y;
}
__global__ void partial_mask() { global_out[threadIdx.x] = __shfl_sync(0xffff, 1.0f, 0); }

__global__ void warp_sums() {
  float sum = (float)(threadIdx.x % 32);
  for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(kFullMask, sum, distance);
  const unsigned odd = __ballot_sync(kFullMask, threadIdx.x % 2);
  global_out[threadIdx.x] = sum == 496 && odd == 0xaaaaaaaau ? 1.0f : NAN;
}

// Small integers, so that every format and order of summation gives the same.
SM_DEVICE float a_of(int row, int k) { return (float)((row * 5 + k * 3) % 7 - 3); }
SM_DEVICE float b_of(int k, int column) { return (float)((k * 2 + column * 5) % 9 - 4); }

// Whether accumulators hold 1 + A B where the PTX manual says.
SM_DEVICE void compare(const float (&d)[4], int depth) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + (i < 2 ? 0 : 8), column = 2 * t + i % 2;
    float sum = 1;
    for (int k = 0; k < depth; ++k) sum += a_of(row, k) * b_of(k, column);
    if (d[i] != sum) global_out[threadIdx.x] = NAN;
  }
}

// Fragments as in the PTX manual, "Matrix Fragments for mma.m16n8k16 with floating point type" and .m16n8k8.
template <class Pack, class K16, class K8>
SM_DEVICE void multiply_16bit(Pack pack, K16 k16, K8 k8) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  unsigned a[2][2], b[2];
  for (int chunk = 0; chunk < 2; ++chunk) {
    const int k = 8 * chunk + 2 * t;
    a[chunk][0] = pack(a_of(g, k), a_of(g, k + 1));
    a[chunk][1] = pack(a_of(g + 8, k), a_of(g + 8, k + 1));
    b[chunk] = pack(b_of(k, g), b_of(k + 1, g));
  }
  float d[4] = {1, 1, 1, 1};
  k16(d, a[0], a[1], uint2{b[0], b[1]});
  compare(d, 16);
  float e[4] = {1, 1, 1, 1};
  k8(e, a[0], b[0]);
  compare(e, 8);
}

__global__ void multiply_half() {
  multiply_16bit([](float x, float y) { return pack_half2(x, y); },
                 [](auto& d, auto& a, auto& b, uint2 c) { mma_k16_half(d, a, b, c); },
                 [](auto& d, auto& a, unsigned b) { mma_k8_half(d, a, b); });
}

// product(sums as pairs of halves), rounded after it.
template <class Product>
SM_DEVICE void with_half_sums(float (&d)[4], Product product) {
  unsigned sums[2] = {pack_half2(d[0], d[1]), pack_half2(d[2], d[3])};
  product(sums);
  for (int i = 0; i < 2; ++i) {
    const float2 both = unpack_half2(sums[i]);
    d[2 * i] = both.x, d[2 * i + 1] = both.y;
  }
}

__global__ void multiply_half_sums() {
  multiply_16bit(
      [](float x, float y) { return pack_half2(x, y); },
      [](auto& d, auto& a, auto& b, uint2 c) {
        with_half_sums(d, [&](auto& sums) { mma_k16_half(sums, a, b, c); });
      },
      [](auto& d, auto& a, unsigned b) { with_half_sums(d, [&](auto& sums) { mma_k8_half(sums, a, b); }); });
}

__global__ void multiply_bf16() {
  multiply_16bit([](float x, float y) { return pack_bf162(x, y); },
                 [](auto& d, auto& a, auto& b, uint2 c) { mma_k16_bf16(d, a, b, c); },
                 [](auto& d, auto& a, unsigned b) { mma_k8_bf16(d, a, b); });
}

__global__ void multiply_tf32() {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float d[4] = {1, 1, 1, 1};
  mma_k8_tf32(d, a_of(g, t), a_of(g + 8, t), a_of(g, t + 4), a_of(g + 8, t + 4),
              make_float2(b_of(t, g), b_of(t + 4, g)));
  compare(d, 8);
}

// Sixteen rows of 16 numbers, as ldmatrix hands them out.
__global__ void load_matrices() {
  auto* rows = reinterpret_cast<uint16_t*>(numbers());  // of the first warp
  if (threadIdx.x >= 32) return;
  for (int i = threadIdx.x; i < 128; i += 32) rows[i] = (uint16_t)(1000 + i);
  __syncwarp();
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  unsigned pair[2];
  ldmatrix_x2(pair, rows + lane % 16 * 8);
  for (int i = 0; i < 2; ++i) {
    const unsigned first = 1000 + (8 * i + g) * 8 + 2 * t;
    if (pair[i] != (first | (first + 1) << 16)) global_out[lane] = NAN;
  }
  unsigned four[4];
  ldmatrix_x4(four, rows + (31 - lane) % 16 * 8);
  for (int i = 0; i < 4; ++i) {
    const unsigned first = 1000 + (31 - 8 * i - g) % 16 * 8 + 2 * t;
    if (four[i] != (first | (first + 1) << 16)) global_out[lane] = NAN;
  }
}

// Rounding of the formats: to nearest even, but TensorFloat-32 away from zero at ties; NaN and infinity stay.
__global__ void round_numbers() {
  auto expect = [](bool right) {
    if (!right) global_out[threadIdx.x] = NAN;
  };
  expect(unpack_half2(pack_half2(1 + 0x1p-11f, 1 + 0x3p-11f)).x == 1);
  expect(unpack_half2(pack_half2(1 + 0x1p-11f, 1 + 0x3p-11f)).y == 1 + 0x1p-9f);
  expect(unpack_bf162(pack_bf162(1 + 0x1p-8f, 1 + 0x3p-8f)).x == 1);
  expect(unpack_bf162(pack_bf162(1 + 0x1p-8f, 1 + 0x3p-8f)).y == 1 + 0x1p-6f);
  expect(round_tf32(1 + 0x1p-11f) == 1 + 0x1p-10f && round_tf32(-1 - 0x1p-11f) == -1 - 0x1p-10f);
  expect(unpack_half2(pack_half2(70000, -INFINITY)).x == INFINITY);
  const float2 nan = unpack_bf162(pack_bf162(NAN, INFINITY));
  expect(nan.x != nan.x && nan.y == INFINITY && max_nan(NAN, 0) != max_nan(NAN, 0) && max_nan(-1, 0) == 0);
}

}  // namespace

namespace cudasim {

const Fault kFaults[] = {
    {"neighbours", 2, [](void*) { neighbours(true); }},
    {"removed barrier", 1, [](void*) { neighbours(false); }},
    {"warp barrier", 1, [](void*) { warp_neighbours(true); }},
    {"removed warp barrier", 1, [](void*) { warp_neighbours(false); }},
    {"write beyond shared memory", 1, [](void*) { beyond_shared(1); }},
    {"write before shared memory", 1, [](void*) { beyond_shared(-1); }},
    {"unwritten shared memory", 1, [](void*) { unwritten(); }},
    {"exit before a barrier", 1, [](void*) { divergent_exit(); }},
    {"two barriers", 1, [](void*) { divergent_barriers(); }},
    {"half a warp shuffles", 1, [](void*) { divergent_shuffle(); }},
    {"conflicting writes", 1, [](void*) { conflicting_writes(); }},
    {"overwrite what others read", 1, [](void*) { overwrite_what_others_read(); }},
    {"write beyond global memory", 1, [](void*) { beyond_global(); }},
    {"write to input", 1, [](void*) { write_to_input(); }},
    {"blocks collide", 2, [](void*) { blocks_collide(); }},
    {"misaligned read", 1, [](void*) { misaligned(); }},
    {"partial mask", 1, [](void*) { partial_mask(); }},
    {"mma half", 1, [](void*) { multiply_half(); }},
    {"mma half sums", 1, [](void*) { multiply_half_sums(); }},
    {"mma bf16", 1, [](void*) { multiply_bf16(); }},
    {"mma tf32", 1, [](void*) { multiply_tf32(); }},
    {"ldmatrix", 1, [](void*) { load_matrices(); }},
    {"rounding", 1, [](void*) { round_numbers(); }},
    {"warp sums", 1, [](void*) { warp_sums(); }},
};

const int kFaultCount = sizeof kFaults / sizeof *kFaults;

FaultMemory fault_memory() { return {global_in, global_out, kCount}; }

}  // namespace cudasim
