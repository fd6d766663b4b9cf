#pragma once
#include <cstddef>
#include <functional>

#include "core/staging.h"
#include "parallel/model/tensor_source.h"

namespace upcycle {

class HostGroup;

// Takes the values of `part`, whole rows of row.part.
using StoreRows = std::function<void(const ParamRow& row, const Rectangle& part, const float* values)>;

// Fills this rank's part of every row of the table from `source`, through a buffer of at most `buffer_bytes`:
// `store` is called with consecutive pieces of row.part. Throws InputError where the source lacks a tensor. `host`: a
// call of all its ranks, which read each byte once among them (read_once.h).
void load_parameters(const ParamTable& table, TensorSource& source, std::size_t buffer_bytes, const StoreRows& store,
                     const HostGroup* host = nullptr);

// The usual `store`: rounds into flat buffers of parameters (bf16 or fp32).
void store_rows(const ParamRow& row, const Rectangle& part, const float* values, Staging& staging, const Tensor& dense,
                const Tensor& expert);
void load_weights(const ParamTable& table, TensorSource& source, Staging& staging, const Tensor& dense,
                  const Tensor& expert, const HostGroup* host = nullptr);

}  // namespace upcycle
