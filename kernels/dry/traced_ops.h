#pragma once
#include <memory>

namespace upcycle {

class Ops;

// The same ops, each call as a range and as work of its stream (core/trace.h) with its name, FLOPs and bytes. FLOPs are
// those that dry ops count: of products, attention and the output projection; bytes: each operand once, of an embedding
// the rows of its tokens. Without a sink a call costs one more jump.
std::unique_ptr<Ops> make_traced_ops(std::shared_ptr<Ops> ops);

}  // namespace upcycle
