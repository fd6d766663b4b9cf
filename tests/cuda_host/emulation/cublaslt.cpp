// cuBLASLt on the host, for tests: the entry points that the CUDA backend calls, as plain loops. It refuses what
// cuBLASLt's documentation rules out and checks what the library trusts: that matrices lie inside live device memory,
// are aligned as the algorithm was asked for, and that its workspace was handed over.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/cuda_host/emulation/runtime_internal.h"

namespace emul {
bool check_device_pointer(const void*);
}

namespace {

struct Layout {
  cudaDataType type;
  cublasLtOrder_t order;
  std::int32_t batch;
  std::uint64_t rows, cols;
  std::int64_t ld;
};
struct Desc {
  cublasComputeType_t compute;
  cudaDataType scale;
  cublasOperation_t a, b;
};
struct Preference {
  std::uint64_t workspace;
  std::uint32_t align[4];  // A, B, C, D
};
struct Algo {
  std::uint64_t magic, workspace;
  std::uint32_t align[4];
};
constexpr std::uint64_t kMagic = 0x75706379636c65;
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t) &&
              sizeof(Desc) <= sizeof(cublasLtMatmulDescOpaque_t) &&
              sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t) &&
              sizeof(Algo) <= sizeof(cublasLtMatmulAlgo_t));

// The library's opaque structs hold ours.
template <class T, class O>
T read(const O* opaque) {
  T t;
  std::memcpy(&t, opaque, sizeof t);
  return t;
}
template <class T, class O>
void write(O* opaque, const T& t) {
  std::memcpy(opaque, &t, sizeof t);
}
template <class T>
bool take(T& out, const void* buf, std::size_t bytes) {
  if (!buf || bytes != sizeof(T)) return false;
  std::memcpy(&out, buf, sizeof(T));
  return true;
}

cublasStatus_t bad(const char* why, cublasStatus_t status = CUBLAS_STATUS_INVALID_VALUE) {
  if (!emul::options().quiet) std::fprintf(stderr, "emulated cuBLASLt: %s\n", why);
  emul::last_message() = why;
  return status;
}

std::size_t size_of(cudaDataType t) { return t == CUDA_R_32F ? 4 : 2; }
bool known(cudaDataType t) { return t == CUDA_R_32F || t == CUDA_R_16BF; }
std::size_t at(const Layout& l, std::uint64_t i, std::uint64_t j) {
  return l.order == CUBLASLT_ORDER_ROW ? i * static_cast<std::uint64_t>(l.ld) + j
                                       : i + j * static_cast<std::uint64_t>(l.ld);
}
float load(const Layout& l, const void* p, std::uint64_t i, std::uint64_t j) {
  return l.type == CUDA_R_32F ? static_cast<const float*>(p)[at(l, i, j)]
                              : __bfloat162float(static_cast<const __nv_bfloat16*>(p)[at(l, i, j)]);
}
// rows x cols of op(matrix), row-major
std::vector<float> load_all(const Layout& l, const void* p, cublasOperation_t op) {
  const std::uint64_t m = op == CUBLAS_OP_N ? l.rows : l.cols, n = op == CUBLAS_OP_N ? l.cols : l.rows;
  std::vector<float> v(m * n);
  for (std::uint64_t i = 0; i < m; ++i)
    for (std::uint64_t j = 0; j < n; ++j) v[i * n + j] = op == CUBLAS_OP_N ? load(l, p, i, j) : load(l, p, j, i);
  return v;
}

cublasStatus_t check(const Desc& d, const Layout& a, const Layout& b, const Layout& c, const Layout& o) {
  for (const Layout* l : {&a, &b, &c, &o}) {
    if (!known(l->type)) return bad("type not emulated", CUBLAS_STATUS_NOT_SUPPORTED);
    if (l->batch != 1) return bad("batches are not emulated", CUBLAS_STATUS_NOT_SUPPORTED);
    if (l->order != CUBLASLT_ORDER_ROW && l->order != CUBLASLT_ORDER_COL)
      return bad("order not emulated", CUBLAS_STATUS_NOT_SUPPORTED);
    if (l->ld < static_cast<std::int64_t>(l->order == CUBLASLT_ORDER_ROW ? l->cols : l->rows))
      return bad("leading dimension too small");
    if (l->rows == 0 || l->cols == 0) return bad("empty matrix");
  }
  if (a.type != b.type || c.type != o.type || (o.type != a.type && o.type != CUDA_R_32F))
    return bad("type combination not supported", CUBLAS_STATUS_NOT_SUPPORTED);
  if (d.scale != CUDA_R_32F || (d.compute != CUBLAS_COMPUTE_32F && d.compute != CUBLAS_COMPUTE_32F_PEDANTIC))
    return bad("compute type not emulated", CUBLAS_STATUS_NOT_SUPPORTED);
  const std::uint64_t m = d.a == CUBLAS_OP_N ? a.rows : a.cols, k = d.a == CUBLAS_OP_N ? a.cols : a.rows;
  const std::uint64_t kb = d.b == CUBLAS_OP_N ? b.rows : b.cols, n = d.b == CUBLAS_OP_N ? b.cols : b.rows;
  if (k != kb || o.rows != m || o.cols != n || c.rows != m || c.cols != n) return bad("matrix sizes do not match");
  if (c.order != o.order) return bad("C and D differ in order", CUBLAS_STATUS_NOT_SUPPORTED);
  return CUBLAS_STATUS_SUCCESS;
}

bool inside(const Layout& l, const void* p) {
  const char* last = static_cast<const char*>(p) + (at(l, l.rows - 1, l.cols - 1) + 1) * size_of(l.type) - 1;
  return emul::check_device_pointer(p) && emul::check_device_pointer(last);
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new char);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<char*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS (other)";
  }
}
const char* cublasLtGetStatusName(cublasStatus_t status) { return cublasLtGetStatusString(status); }

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t cols, int64_t ld) {
  write(layout, Layout{type, CUBLASLT_ORDER_COL, 1, rows, cols, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t;
  return cublasLtMatrixLayoutInit_internal(*layout, 0, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* buf,
                                                size_t bytes) {
  Layout l = read<Layout>(layout);
  bool ok = false;
  std::uint32_t word = 0;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      ok = take(word, buf, bytes), l.type = static_cast<cudaDataType>(word);
      break;
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      ok = take(word, buf, bytes), l.order = static_cast<cublasLtOrder_t>(word);
      break;
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      ok = take(l.rows, buf, bytes);
      break;
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      ok = take(l.cols, buf, bytes);
      break;
    case CUBLASLT_MATRIX_LAYOUT_LD:
      ok = take(l.ld, buf, bytes);
      break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      ok = take(l.batch, buf, bytes);
      break;
    default:
      break;
  }
  if (!ok) return bad("layout attribute not emulated, or of another size");
  write(layout, l);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  write(desc, Desc{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = new cublasLtMatmulDescOpaque_t;
  return cublasLtMatmulDescInit_internal(*desc, 0, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* buf, size_t bytes) {
  Desc d = read<Desc>(desc);
  std::int32_t word = 0;
  if (!take(word, buf, bytes)) return bad("matmul attribute of another size");
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      d.a = static_cast<cublasOperation_t>(word);
      break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
      d.b = static_cast<cublasOperation_t>(word);
      break;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      if (word != CUBLASLT_POINTER_MODE_HOST) return bad("pointer mode not emulated", CUBLAS_STATUS_NOT_SUPPORTED);
      break;
    default:
      return bad("matmul attribute not emulated");
  }
  write(desc, d);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t) {
  write(preference, Preference{0, {256, 256, 256, 256}});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return cublasLtMatmulPreferenceInit_internal(*preference, 0);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* buf,
                                                    size_t bytes) {
  Preference p = read<Preference>(preference);
  bool ok = false;
  std::uint32_t ignored = 0;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      ok = take(p.workspace, buf, bytes);
      break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      ok = take(p.align[0], buf, bytes);
      break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      ok = take(p.align[1], buf, bytes);
      break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      ok = take(p.align[2], buf, bytes);
      break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      ok = take(p.align[3], buf, bytes);
      break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      ok = take(ignored, buf, bytes);
      break;
    default:
      break;
  }
  if (!ok) return bad("preference not emulated, or of another size");
  write(preference, p);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                              int requested, cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  if (requested < 1) return bad("no algorithm asked for");
  if (const auto status = check(read<Desc>(desc), read<Layout>(a), read<Layout>(b), read<Layout>(c), read<Layout>(d)))
    return status;
  const Preference p = read<Preference>(preference);
  std::memset(results, 0, sizeof *results);
  // Some workspace wherever some is allowed, so that a call which forgets to hand it over fails.
  Algo algo{kMagic, p.workspace < 4096 ? p.workspace : 4096, {}};
  std::memcpy(algo.align, p.align, sizeof algo.align);
  write(&results[0].algo, algo);
  results[0].workspaceSize = algo.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* A,
                              cublasLtMatrixLayout_t a, const void* B, cublasLtMatrixLayout_t b, const void* beta,
                              const void* C, cublasLtMatrixLayout_t c, void* D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  const Desc op = read<Desc>(desc);
  const Layout la = read<Layout>(a), lb = read<Layout>(b), lc = read<Layout>(c), ld = read<Layout>(d);
  if (const auto status = check(op, la, lb, lc, ld)) return status;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  if (algo) {
    const Algo chosen = read<Algo>(algo);
    if (chosen.magic != kMagic) return bad("the algorithm does not come from the heuristic");
    if (chosen.workspace > workspace_bytes) return bad("workspace smaller than the algorithm's");
    const void* pointers[] = {A, B, C, D};
    for (int i = 0; i < 4; ++i)
      if (chosen.align[i] && reinterpret_cast<std::uintptr_t>(pointers[i]) % chosen.align[i])
        return bad("a matrix is less aligned than the algorithm was asked for");
    // cuBLAS documentation, cublasLtMatmul(): the workspace "must be 256B aligned".
    if (chosen.workspace && reinterpret_cast<std::uintptr_t>(workspace) % 256)
      return bad("the workspace is not aligned to 256 bytes");
  }
  if (workspace_bytes && (!emul::check_device_pointer(workspace) ||
                          !emul::check_device_pointer(static_cast<char*>(workspace) + workspace_bytes - 1)))
    return bad("the workspace is not inside live device memory", CUBLAS_STATUS_EXECUTION_FAILED);
  if (!inside(la, A) || !inside(lb, B) || !inside(ld, D) || (keep != 0 && !inside(lc, C)))
    return bad("a matrix is not inside live device memory", CUBLAS_STATUS_EXECUTION_FAILED);
  emul::enqueue_fn(stream, [=] {
    emul::DeviceAccess access;
    const std::uint64_t m = ld.rows, n = ld.cols, k = op.a == CUBLAS_OP_N ? la.cols : la.rows;
    const std::vector<float> fa = load_all(la, A, op.a), fb = load_all(lb, B, op.b);
    std::vector<float> row(n);
    for (std::uint64_t i = 0; i < m; ++i) {
      std::fill(row.begin(), row.end(), 0.f);
      for (std::uint64_t t = 0; t < k; ++t) {
        const float x = fa[i * k + t];
        const float* y = fb.data() + t * n;
        for (std::uint64_t j = 0; j < n; ++j) row[j] += x * y[j];
      }
      for (std::uint64_t j = 0; j < n; ++j) {
        const float old = keep != 0 ? keep * load(lc, C, i, j) : 0.f;  // C is not read when beta is 0
        const float out = scale * row[j] + old;
        if (ld.type == CUDA_R_32F)
          static_cast<float*>(D)[at(ld, i, j)] = out;
        else
          static_cast<__nv_bfloat16*>(D)[at(ld, i, j)] = __float2bfloat16(out);
      }
    }
    if (workspace_bytes) std::memset(workspace, 0xFF, workspace_bytes);  // whatever lay there is gone
  });
  return emul::sticky() == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
