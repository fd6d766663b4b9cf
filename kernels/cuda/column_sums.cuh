#pragma once
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda_scratch.h"

// Sums over rows, for gradients of vectors, in two kernels: a block has 32 columns of a part of the rows, then the
// parts are added in order.
namespace upcycle::cuda {

constexpr int kSumColumns = 32, kSumRuns = 8;  // threads of a block
constexpr std::int64_t kSumRowsOfAPart = 64;   // at least, where that makes more than one part

template <class Value>
__global__ void column_parts(float* parts, Value value, std::int64_t rows, std::int64_t columns) {
  GPU_SHARED(float, runs, [kSumRuns][kSumColumns]);
  const std::int64_t column = std::int64_t{blockIdx.x} * kSumColumns + threadIdx.x;
  const std::int64_t part = blockIdx.y, count = gridDim.y;
  float sum = 0;
  if (column < columns)
    for (std::int64_t row = rows * part / count + threadIdx.y; row < rows * (part + 1) / count; row += kSumRuns)
      sum += value(row, column);
  runs[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int run = 1; run < kSumRuns; ++run) sum += runs[run][threadIdx.x];
  parts[part * columns + column] = sum;
}

template <int Threads>
__global__ void add_column_parts(float* sums, const float* parts, std::int64_t count, std::int64_t columns) {
  const std::int64_t column = std::int64_t{blockIdx.x} * Threads + threadIdx.x;
  if (column >= columns) return;
  float sum = 0;
  for (std::int64_t part = 0; part < count; ++part) sum += parts[part * columns + column];
  sums[column] += sum;
}

// sums fp32 (columns) += value(row, column) over the rows; `parts` has scratch::column_parts(columns) bytes.
template <class Value>
void add_column_sums(Stream& stream, float* sums, float* parts, std::int64_t rows, std::int64_t columns,
                     const Value& value) {
  if (rows == 0 || columns == 0) return;
  const std::int64_t count = std::clamp<std::int64_t>(rows / kSumRowsOfAPart, 1, scratch::kColumnParts);
  const auto blocks = static_cast<unsigned>((columns + kSumColumns - 1) / kSumColumns);
  UPCYCLE_CUDA(gpu::launch({dim3(blocks, static_cast<unsigned>(count)), dim3(kSumColumns, kSumRuns), 0, native(stream)},
                           column_parts<Value>, parts, value, rows, columns));
  constexpr int kThreads = 128;
  UPCYCLE_CUDA(
      gpu::launch({dim3(static_cast<unsigned>((columns + kThreads - 1) / kThreads)), dim3(kThreads), 0, native(stream)},
                  add_column_parts<kThreads>, sums, static_cast<const float*>(parts), count, columns));
}

}  // namespace upcycle::cuda
