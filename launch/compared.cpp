#include "launch/compared.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "parallel/checkpoint/open_model.h"
#include "parallel/model/tensor_source.h"
#include "parallel/train/dump_files.h"

namespace upcycle {
namespace {

template <class T>
std::vector<float> as_floats(const std::vector<char>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  std::vector<float> floats(values.size());
  std::ranges::transform(values, floats.begin(), [](T x) {
    if constexpr (std::is_same_v<T, bf16>) {
      return to_float(x);
    } else {
      return static_cast<float>(x);
    }
  });
  return floats;
}

std::vector<ComparedTensor> open_dump(const std::string& dir) {
  const auto dump = std::make_shared<DumpReader>(dir);
  std::vector<ComparedTensor> all;
  for (std::size_t i = 0; i < dump->tensors().size(); ++i) {
    const DumpTensor& t = dump->tensors()[i];
    all.push_back({t.name, t.kind, name_of(t.type), t.shape, [dump, i, name = t.name, type = t.type] {
                     const std::vector<char> bytes = dump->read(i);
                     if (type == StoredType::BF16) return as_floats<bf16>(bytes);
                     if (type == StoredType::I32) return as_floats<std::int32_t>(bytes);
                     if (type == StoredType::F32) return as_floats<float>(bytes);
                     input_error("{}: found {}, expected F32, BF16 or I32, which dumps have; dump the step again", name,
                                 name_of(type));
                   }});
  }
  return all;
}

std::vector<ComparedTensor> open_file(const std::string& path) {
  const auto file = std::make_shared<SafetensorsFile>(SafetensorsFile::open(path));
  std::vector<std::string> names = file->names();
  std::ranges::sort(names, {}, [&](const std::string& name) { return file->info(name).begin; });
  std::vector<ComparedTensor> all;
  for (const std::string& name : names) {
    const StoredTensor info = file->info(name);
    all.push_back({name, "tensor", name_of(info.type), info.shape, [file, name, info] {
                     if (info.type == StoredType::I32) return as_floats<std::int32_t>(file->read_bytes(name));
                     std::vector<float> values(static_cast<std::size_t>(info.rows * info.columns));
                     file->read_rows(name, 0, info.rows, values.data());
                     return values;
                   }});
  }
  return all;
}

std::vector<ComparedTensor> open_weights(const std::string& dir) {
  const std::shared_ptr<TensorSource> source = open_model(dir);
  std::vector<ComparedTensor> all;
  for (const ParamRow& row : make_global_table(source->model()).rows)
    all.push_back({row.name, "parameter", name_of(StoredType::F32),
                   row.is_vector ? std::vector{row.columns} : std::vector{row.rows, row.columns}, [source, row] {
                     std::vector<float> values(static_cast<std::size_t>(row.global_size()));
                     source->read(row.name, row.part, values.data());
                     return values;
                   }});
  return all;
}

}  // namespace

std::vector<ComparedTensor> open_compared(const std::string& path) {
  if (DumpReader::is_dump(path)) return open_dump(path);
  return std::filesystem::is_regular_file(path) ? open_file(path) : open_weights(path);
}

}  // namespace upcycle
